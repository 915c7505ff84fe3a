"""Text features on disk: one safetensors file for each prompt, in a folder of limited size.

The files hold features and the notice about a prompt that was cut, never the prompt itself.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import CheckpointError, LatteError
from ..types import TEXT_TOKENS
from .cache import PromptFeatures

STORE_BYTES = 2**30  # about a thousand prompts of Latte-1 in 16 bits
SUFFIX = ".safetensors"
NOTICES = "notices"
EMBEDS, MASK = "embeds", "mask"

StoredFeatures = tuple[Mapping[str, Tensor], Mapping[str, str]]
"""Tensors and metadata of a file."""

logger = logging.getLogger("latte")


class EmbeddingStore:
    """A folder of features.

    Args:
        folder: made when first written to.
        read: opens a file safely and returns its tensors and metadata.
        write: writes tensors and metadata to a file that is whole or not there.
        max_bytes: of all files; those not used for longest are removed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        read: Callable[[Path], StoredFeatures],
        write: Callable[[Path, Mapping[str, Tensor], Mapping[str, str]], None],
        max_bytes: int = STORE_BYTES,
    ) -> None:
        self.folder = folder
        self._read = read
        self._write = write
        self._max_bytes = max_bytes
        self._is_writable = True

    def path_of(self, key: str) -> Path:
        """Return the file of a key."""
        return self.folder / f"{key}{SUFFIX}"

    def load(self, key: str) -> PromptFeatures | None:
        """Return features; a file that cannot be used is removed with one line in the log."""
        path = self.path_of(key)
        if not path.is_file():
            return None
        try:
            found = features_from(path.name, *self._read(path))
        except LatteError as error:
            logger.warning("Text features are computed again: %s", error)
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        with suppress(OSError):  # a folder that is only read from keeps its order
            os.utime(path)
        return found

    def save(self, key: str, features: PromptFeatures) -> None:
        """Write features; a folder that cannot be written is mentioned once."""
        if not self._is_writable:
            return
        tensors = {EMBEDS: features.embeds, MASK: features.mask}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(self.path_of(key), tensors, {NOTICES: json.dumps(features.notices)})
            self._shrink(self.path_of(key))
        except (OSError, CheckpointError) as error:
            self._is_writable = False
            logger.warning("Text features are not kept in %s: %s", self.folder, error)

    def _shrink(self, newest: Path) -> None:
        """Remove the files that were not used for longest until the folder is small enough."""
        found: list[tuple[int, int, Path]] = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            with suppress(OSError):  # another process may have removed it
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._max_bytes:
                return
            if path == newest:
                continue
            with suppress(OSError):  # another process may read it
                path.unlink(missing_ok=True)
            total -= size


def features_from(
    name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> PromptFeatures:
    """Return the features that a file holds.

    Args:
        name: of the file, for messages.
        tensors, metadata: what was read from it.

    Raises:
        CheckpointError: if it holds anything else.
    """
    embeds, mask = tensors.get(EMBEDS), tensors.get(MASK)
    notices: object = None
    with suppress(ValueError, RecursionError):
        notices = json.loads(metadata.get(NOTICES, "null"))
    is_whole = (
        embeds is not None
        and mask is not None
        and embeds.ndim == 2
        and embeds.shape[0] == TEXT_TOKENS
        and embeds.is_floating_point()
        and tuple(mask.shape) == (TEXT_TOKENS,)
        and mask.dtype == torch.bool
    )
    if not is_whole or not isinstance(notices, list):
        raise CheckpointError(f"{name} does not hold the text features that its name says.")
    assert embeds is not None
    assert mask is not None
    told = tuple(str(one) for one in cast("list[Any]", notices))
    # cloned: the file stays mapped otherwise, and cannot be replaced on Windows
    return PromptFeatures(embeds=embeds.clone(), mask=mask.clone(), notices=told)
