"""A transformer as it is trained: from a batch to its prediction, whatever it is steered by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import (
    checkpoint,  # pyright: ignore[reportUnknownVariableType]
)

from ..model.attention import BlockHooks
from ..model.latte.transformer import Latte
from ..model.t2v.blocks import Grid
from ..model.t2v.places import PlaceTables, times_table
from ..model.t2v.transformer import LatteT2V
from ..model.weights.dropout import Masks
from .examples import Batch


def recompute_block(
    index: int,
    block: Callable[..., Tensor],
    hidden: Tensor,
    context: Tensor,
    modulation: Tensor,
) -> Tensor:
    """Run a block without keeping what its backward pass needs; that is computed again there."""
    return cast(Tensor, checkpoint(block, hidden, context, modulation, use_reentrant=False))


PLAIN = BlockHooks(text_in_blocks=True)
CHECKPOINTED = BlockHooks(run_block=recompute_block, text_in_blocks=True)


class Denoiser(nn.Module):
    """Asks a transformer what noise is in a batch.

    One `forward` makes all calls of the transformer, so that wrappers for several processes see a
    single one.

    Args:
        transformer: a LatteT2V or a Latte.
        checkpoint_activations: see `recompute_block`.
        images_through_temporal: see `TrainConfig`.
        seed: of the dropout of adapters.
    """

    def __init__(
        self,
        transformer: nn.Module,
        *,
        checkpoint_activations: bool = False,
        images_through_temporal: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.hooks = CHECKPOINTED if checkpoint_activations else PLAIN
        self.images_through_temporal = images_through_temporal
        self.masks = Masks(transformer, seed)
        self._places: dict[tuple[torch.Size, torch.device], PlaceTables] = {}

    def forward(self, noisy: Tensor, batch: Batch) -> Tensor:
        """Predict the noise of (b, 4, F + I, h, w), and its variance: (b, 8, F + I, h, w)."""
        self.masks.numbers = batch.numbers
        if isinstance(self.transformer, Latte):
            return self.with_classes(noisy, batch)
        return self.with_text(noisy, batch)

    def with_classes(self, noisy: Tensor, batch: Batch) -> Tensor:
        """Ask a Latte; its labels, if it has any, are in the batch."""
        transformer: Any = self.transformer
        has_classes = transformer.config.conditioning == "class"
        return transformer(
            noisy,
            batch.timesteps,
            batch.labels if has_classes else None,
            num_images=batch.num_images,
            image_labels=batch.image_labels if has_classes else None,
            drop_labels=batch.dropped if transformer.config.has_null_class else None,
            hooks=self.hooks,
        )

    def with_text(self, noisy: Tensor, batch: Batch) -> Tensor:
        """Ask a LatteT2V; images go in as clips of one frame, each with its own text."""
        assert isinstance(self.transformer, LatteT2V)
        num_frames = noisy.shape[2] - batch.num_images
        clips = self.transformer(
            noisy[:, :, :num_frames],
            batch.timesteps,
            batch.context,
            batch.mask,
            places=self.places(noisy[:, :, :num_frames], batch.positions),
            hooks=self.hooks,
        )
        if not batch.num_images:
            return clips
        pictures = rearrange(noisy[:, :, num_frames:], "b c i h w -> (b i) c 1 h w")
        images = self.transformer(
            pictures,
            batch.timesteps.repeat_interleave(batch.num_images),
            batch.image_context,
            batch.image_mask,
            self.images_through_temporal,
            places=self.places(pictures),
            hooks=self.hooks,
        )
        images = rearrange(images, "(b i) c 1 h w -> b c i h w", i=batch.num_images)
        return torch.cat([clips, images], dim=2)

    def places(self, latents: Tensor, positions: Tensor | None = None) -> PlaceTables:
        """Return the tables of places of latents; those that every batch needs are kept."""
        assert isinstance(self.transformer, LatteT2V)
        key = (latents.shape, latents.device)
        if key not in self._places:
            self._places[key] = self.transformer.place_tables(latents.shape, latents.device)
        kept = self._places[key]
        if positions is None:
            return kept
        config, (batch, _, frames, height, width) = self.transformer.config, latents.shape
        edge = config.patch_size
        grid = Grid(batch=batch, num_frames=frames, rows=height // edge, columns=width // edge)
        times = times_table(config.hidden_size, grid, positions, latents.device)
        return replace(kept, temporal=times)
