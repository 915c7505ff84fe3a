"""Refuse to commit a large file: exit code 1 and a line for each of the files named."""

from __future__ import annotations

import sys
from pathlib import Path

LIMIT = 500_000
SHELVES = ("latte_core/assets/starter/", "latte_core/assets/class_starter/", "docs/images/")

large = [
    name
    for name in sys.argv[1:]
    if not name.startswith(SHELVES) and Path(name).stat().st_size > LIMIT
]
if large:
    sys.exit("\n".join(f"{name} is larger than {LIMIT:,} bytes" for name in large))
