"""Train the class starter: a small Latte whose classes are colours and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..latte_config import LatteConfig
from ..model.latte import Latte
from .drawing import COLORS, SHAPES
from .starter_clips import POOL_SIZE, clip_spec
from .starter_init import pass_input_through
from .starter_loop import Batch, Stage, StarterTrainer

CLASS_NAMES = tuple(f"{color} {shape}" for color in COLORS for shape in SHAPES)
CLASS_CONFIG = LatteConfig(
    input_size=8,
    hidden_size=128,
    depth=8,
    num_heads=4,
    num_frames=16,
    conditioning="class",
    num_classes=len(CLASS_NAMES),
)


class ClassToVideo(nn.Module):
    """The class-conditional transformer under the name `transformer`."""

    def __init__(self, config: LatteConfig) -> None:
        super().__init__()
        self.transformer = Latte.from_config(config)

    def forward(self, batch: Batch, labels: Tensor) -> Tensor:
        """Predict noise (B, 4, F, h, w)."""
        return self.transformer(batch.noisy, batch.timesteps, labels)[:, :4]


@torch.no_grad()
def initialize(transformer: Latte) -> None:
    """Let the input through (see `starter_init.py`); all else starts as in `Latte.from_config`."""
    both = (transformer.pos_embed + transformer.temp_embed.transpose(0, 1)).flatten(0, 1)
    embed = transformer.x_embedder.proj.weight
    pass_input_through(embed, transformer.final_layer.linear.weight, both)


def class_of(color: str, shape: str) -> int:
    """Return the label of a colour and shape."""
    return CLASS_NAMES.index(f"{color} {shape}")


def config_of_variant(variant: int) -> LatteConfig:
    """Return the class starter's config in one of the paper's four variants.

    As in the paper, variants 3 and 4 have fewer blocks, since each holds two attentions.
    """
    depth = CLASS_CONFIG.depth if variant < 3 else CLASS_CONFIG.depth - 1
    return replace(CLASS_CONFIG, variant=variant, depth=depth)


def make_class_trainer(
    vae: Any,
    stages: Sequence[Stage],
    *,
    seed: int,
    config: LatteConfig = CLASS_CONFIG,
    pool_size: int = POOL_SIZE,
    start_from: Mapping[str, Tensor] | None = None,
) -> StarterTrainer:
    """Return a trainer of a `ClassToVideo`.

    Args:
        vae, stages, seed, pool_size: see `StarterTrainer`.
        config: sizes and variant.
        start_from: weights of a transformer to go on from.
    """
    torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
    network = ClassToVideo(config)
    transformer = network.transformer
    if start_from is None:
        initialize(transformer)
    else:
        transformer.load_state_dict(start_from)

    def predict(module: nn.Module, batch: Batch) -> Tensor:
        specs = [clip_spec(seed, number) for number in batch.numbers]
        labels = torch.tensor([class_of(spec.color, spec.shape) for spec in specs])
        return module(batch, labels)

    ends = [transformer.x_embedder, transformer.final_layer.linear]
    outer = [value for end in ends for value in end.parameters()]
    return StarterTrainer(
        network, predict, vae, stages, seed=seed, outer=outer, pool_size=pool_size
    )
