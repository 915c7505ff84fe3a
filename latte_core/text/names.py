"""Words for where encoded prompts are kept."""

from __future__ import annotations

OFF, IN_MEMORY, ON_DISK = "off", "memory", "disk"
