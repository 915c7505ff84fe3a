"""Where a MODEL came from: kept with it, for what lies beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ....latte_core.checkpoint.reading.reader import DIGEST_KEY

ORIGIN = "latte_origin"  # where a model patcher keeps an `Origin` among its attachments


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a model came from.

    Args:
        folder: its own, with `transformer/` in it.
        digest: of its weights, as its file states it; "" if it states none.
    """

    folder: Path
    digest: str = ""

    @classmethod
    def of(cls, path: Path, metadata: Mapping[str, str]) -> Origin | None:
        """Return a folder's; None for a file, which shares its folder with other models.

        Args:
            path: what was loaded.
            metadata: of its weights.
        """
        return cls(folder=path, digest=metadata.get(DIGEST_KEY, "")) if path.is_dir() else None
