"""Dropout of adapters as a function of the seed and the example's number alone.

A mask drawn from a generator depends on what was drawn before, so on how often a run was stopped,
how a batch was cut into parts, and how long the longest caption of a part is. Here each element is
kept by a hash of the seed, the example, the layer and the element's own place.
"""

from __future__ import annotations

import hashlib
from functools import partial

import torch
from torch import Tensor, nn

from .lora import lora_layers

WORD = 2**32
FACTOR = 0x45D9F3B  # of 27 bits, so that products of 32-bit numbers fit an int64


class Masks:
    """The dropout of every adapter of a model in training.

    Args:
        model: whose adapters ask here from now on; others than adapters have no dropout.
        seed: of the run.
    """

    def __init__(self, model: nn.Module, seed: int) -> None:
        self.seed = seed
        self.numbers: tuple[int, ...] = ()  # of the examples that go through the model now
        for name, layer in lora_layers(model).items():
            layer.drop = partial(self.drop, name, layer.settings.dropout)

    def drop(self, name: str, share: float, hidden: Tensor) -> Tensor:
        """Set a share of an adapter's inputs to 0 and scale the others up.

        Args:
            name: of the layer.
            share: 0 .. below 1.
            hidden: (b * R, ...) where the R rows of an example stand together.
        """
        rows, left = divmod(len(hidden), max(len(self.numbers), 1))
        assert self.numbers and not left, "the rows of examples stand together"
        keys = torch.tensor([self.key(name, number) for number in self.numbers])  # b 2
        keys = keys.to(hidden.device).repeat_interleave(rows, dim=0)  # b*R 2
        row = torch.arange(rows, device=hidden.device).repeat(len(self.numbers))
        first = mixed(keys[:, 0] ^ row)[:, None]
        place = torch.arange(hidden[0].numel(), device=hidden.device)[None]
        drawn = mixed(mixed(place ^ first) ^ keys[:, 1:])
        kept = (drawn >= int(share * WORD)).view(hidden.shape)
        return torch.where(kept, hidden / (1 - share), 0)

    def key(self, name: str, number: int) -> tuple[int, int]:
        """Return two numbers of 32 bits for an example in a layer."""
        text = f"{self.seed}-dropout-{number}-{name}".encode()
        value = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
        return divmod(value, WORD)


def mixed(values: Tensor) -> Tensor:
    """Return other numbers of 32 bits for int64 ones, each bit depending on every bit."""
    for _ in range(2):
        values = ((values ^ (values >> 16)) * FACTOR) % WORD
    return values ^ (values >> 16)
