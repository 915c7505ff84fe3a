"""Text features that were computed before, so that the text encoder need not run, or be loaded.

A prompt is kept with all 120 rows: a negative prompt, the empty one above all, is cut to the length
of whatever positive it stands beside. Each prompt is encoded as if it were alone, so that its
features do not depend on which others were found.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .pair import Encoder
from .t5 import ROWS_AT_ONCE, TextEmbeddings, TextEncoder

MEMORY_BYTES = 2**27  # about 130 prompts of Latte-1 in 16 bits
VERSION = 1  # of what a key means


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptFeatures:
    """Features of one prepared prompt.

    Args:
        embeds: (120, C) on the CPU, in the encoder's dtype.
        mask: (120,) bool on the CPU.
        notices: what the encoder said about a prompt that was cut.
    """

    embeds: Tensor
    mask: Tensor
    notices: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensors."""
        return sum(one.numel() * one.element_size() for one in (self.embeds, self.mask))


class FeatureStore(Protocol):
    """Keeps features longer than a process lives."""

    def load(self, key: str) -> PromptFeatures | None:
        """Return features, or None if there are none that can be used."""
        ...

    def save(self, key: str, features: PromptFeatures) -> None:
        """Keep features; failing to is no error."""
        ...


class EmbeddingCache:
    """Features by key: those used last in memory, and all of them in a store if there is one.

    Args:
        store: on disk, or None.
        max_bytes: of what is kept in memory.
    """

    def __init__(self, store: FeatureStore | None = None, *, max_bytes: int = MEMORY_BYTES) -> None:
        self.store = store
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, PromptFeatures] = OrderedDict()

    @property
    def num_bytes(self) -> int:
        """Bytes kept in memory."""
        return sum(features.num_bytes for features in self._kept.values())

    def get(self, key: str) -> PromptFeatures | None:
        """Return features, or None if they have to be computed."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            return found
        found = None if self.store is None else self.store.load(key)
        if found is not None:
            self._keep(key, found)
        return found

    def put(self, key: str, features: PromptFeatures) -> None:
        """Keep features, and let go of those that were not used for longest."""
        self._keep(key, features)
        if self.store is not None:
            self.store.save(key, features)

    def _keep(self, key: str, features: PromptFeatures) -> None:
        self._kept[key] = features
        while self.num_bytes > self._max_bytes and len(self._kept) > 1:
            self._kept.popitem(last=False)


def feature_key(identity: Mapping[str, Any], text: str) -> str:
    """Return the key of a prepared prompt.

    Args:
        identity: everything that decides the features but the text: fingerprints of weights and
            tokenizer, config, dtype, kind of device.
        text: cleaned already.

    Returns:
        SHA-256 in hexadecimal digits.
    """
    told = json.dumps([VERSION, dict(identity), text], sort_keys=True, default=str)
    return hashlib.sha256(told.encode("utf-8")).hexdigest()


class CachedEncoder:
    """Encodes as a `TextEncoder` does, and asks for one only if a prompt is new.

    Args:
        cache: where features are kept.
        identity: see `feature_key`.
        open_encoder: returns the text encoder, where it works; asked once for all new prompts. A
            `TextEncoder` takes up to `ROWS_AT_ONCE` of them in one pass over its layers, others one
            after the other.
    """

    def __init__(
        self,
        cache: EmbeddingCache,
        identity: Mapping[str, Any],
        open_encoder: Callable[[], Encoder],
    ) -> None:
        self._cache = cache
        self._identity = identity
        self._open = open_encoder

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> TextEmbeddings:
        """Return (B, 120, C) features and (B, 120) mask of prepared prompts, on the CPU.

        Raises:
            NonFiniteError: if the features of a new prompt are NaN or infinite.
        """
        keys = [feature_key(self._identity, text) for text in texts]
        rows = {key: self._cache.get(key) for key in keys}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if rows[key] is None}
        for key, made in zip(missing, self._make(list(missing.values())), strict=True):
            self._cache.put(key, made)
            rows[key] = made
        found = [row for key in keys if (row := rows[key]) is not None]
        return TextEmbeddings(
            embeds=torch.stack([row.embeds for row in found]),
            mask=torch.stack([row.mask for row in found]),
            notices=tuple(notice for row in found for notice in row.notices),
        )

    def _make(self, texts: list[str]) -> Iterator[PromptFeatures]:
        """Encode prompts that are new, without letting one have a part in another.

        They come as soon as they are encoded, so that a run that is stopped has kept them.
        """
        if not texts:
            return
        encoder = self._open()
        at_once = ROWS_AT_ONCE if isinstance(encoder, TextEncoder) else 1
        for start in range(0, len(texts), at_once):
            some = texts[start : start + at_once]
            if isinstance(encoder, TextEncoder):
                made = encoder.encode_each(some)
            else:
                made = [encoder.encode(some)]
            for one in made:
                yield PromptFeatures(
                    embeds=one.embeds[0].cpu(), mask=one.mask[0].cpu(), notices=one.notices
                )
