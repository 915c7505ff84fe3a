"""Latte, the class-conditional and unconditional video transformer (arXiv 2401.03048).

One model for the reference's Latte and LatteIMG (docs/model.md 2 and 3), whose weights have the
same names and meaning, and for the paper's four variants (docs/model.md 4). Attribute names are
those of the released weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...config.latte import LatteConfig
from ...errors import IncompatibleInputsError
from ...transfers import send
from ..attention import DEFAULT_HOOKS, BlockHooks
from ..base import LayerMaker, VideoTransformer
from ..positional import integer_table, rotary_table, temporal_table
from ..residual import Stream, settled
from .attention import Pass, add_temporal_table, on_clip, spread_to_frames
from .blocks import make_blocks
from .inputs import (
    check_conditioning,
    check_dropped,
    check_labels,
    check_latents,
    check_text,
    check_timesteps,
)
from .layers import FinalLayer, LabelEmbedder, PatchEmbedder, TimestepEmbedder, fixed_table


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipTables:
    """The places of a clip's tokens: made once, used for every step.

    Args:
        spatial: (S, D) float32.
        temporal: (F, D) float32, or None.
        rotation: see `rotary_table`, or None.
        size: rows and columns of tokens in a frame, and frames or tubelets F.
    """

    spatial: Tensor
    temporal: Tensor | None
    rotation: Tensor | None
    size: tuple[int, int, int]


class Latte(VideoTransformer[LatteConfig]):
    """Predict noise (and variance logits) of noisy video latents, with or without a class.

    A host that runs, skips or replaces blocks (`BlockHooks.run_block`) is given the tokens
    (B, F*S, D) and, in the place of both context and modulation, the condition (B, 1, D), or
    (B, 1 + I, D) where I images have labels of their own, or (B, 0, D) where timestep and label
    are tokens among the others.

    Of the namespace that makes its layers it uses Linear, Embedding, Conv2d and Conv3d. Initial
    weights (docs/model.md 2.7) make an output that is exactly 0.
    """

    config_type = LatteConfig

    def make_layers(self, config: LatteConfig, make: LayerMaker) -> None:
        """Make the layers of `config`."""
        width = config.hidden_size
        self.x_embedder = PatchEmbedder(config, make)
        self.t_embedder = TimestepEmbedder(width, make)
        if config.conditioning == "class":
            self.y_embedder = LabelEmbedder(config.num_labels, width, make)
        if config.conditioning == "clip_text":
            linear = make.linear(config.text_features, width)
            self.text_embedding_projection = nn.ModuleList([nn.SiLU(), linear])
        self.pos_embed = fixed_table(config.table_side**2, width, make.device)
        if config.has_temporal_table:
            count = config.num_frames // config.tubelet_size
            self.temp_embed = fixed_table(count, width, make.device)
        self.blocks = nn.ModuleList(make_blocks(config, make))
        self.final_layer = FinalLayer(config, make)

    def initialize(self) -> None:
        """Set the initial weights; nothing is done to weights without storage."""
        if not self.pos_embed.is_meta:
            initialize(self)

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        class_labels: Tensor | None = None,
        *,
        text_embedding: Tensor | None = None,
        num_images: int = 0,
        image_labels: Tensor | None = None,
        drop_labels: Tensor | None = None,
        enable_temporal_attention: bool = True,
        places: ClipTables | None = None,
        hooks: BlockHooks = DEFAULT_HOOKS,
    ) -> Tensor:
        """Predict noise and variance logits.

        Args:
            latents: (B, 4, F, h, w) noisy latents; h and w are multiples of the patch size.
            timesteps: (B,) or (), 0 .. 999, int or float.
            class_labels: (B,) or (1,), 0 .. num_classes, the last being the null class; needed by
                class-conditional models and refused by others. On the CPU they are checked without
                waiting for an accelerator.
            text_embedding: (B, 77, 768), or flattened; for "clip_text" models.
            num_images: how many of the F frames, the last ones, are single images, which no
                temporal attention sees (joint training, docs/model.md 3).
            image_labels: (B, num_images) labels of the images; without them the clip's serve.
            drop_labels: (B,), True where the null class takes the place of a video's label and of
                its images' labels, or (B, 2) for each of both. By default labels are dropped in
                training mode only, at random as the config says, one draw for the clip and one
                for all its images.
            enable_temporal_attention: False makes F independent images.
            places: result of `place_tables`; None makes them.
            hooks: what a host does in the place of attention and around blocks.

        Returns:
            (B, 8, F, h, w): 4 noise channels, then 4 variance channels (none of them if variance
            is not learned), in the dtype of `latents`.

        Raises:
            InvalidInputError, IncompatibleInputsError: naming what does not fit.
        """
        rows, columns = check_latents(self.config, latents, num_images)
        check_conditioning(
            self.config, class_labels, text_embedding, image_labels, drop_labels, num_images
        )
        dtype = self._compute_dtype(latents)
        time = self.t_embedder(check_timesteps(timesteps, latents), dtype)[:, None]  # B 1 D
        given = None  # B 1 D, or B (1 + I) D where images have labels of their own
        if class_labels is not None:
            given = self._embed_labels(latents, class_labels, image_labels, num_images, drop_labels)
        if text_embedding is not None:
            given = self._embed_text(text_embedding.to(latents.device, dtype), latents.shape[0])

        num_frames = (latents.shape[2] - num_images) // self.config.tubelet_size
        places = self._places_of(places, (rows, columns, num_frames), latents.device)
        run = self._plan(places, latents, hooks, enable_temporal_attention)
        hidden = self._embed_latents(latents.to(dtype), places.spatial, run)  # B F S D
        hidden, condition = self._inject(hidden, time, given, run)
        # patches come as columns, which every norm would copy and every sum would keep
        stream = self._run_blocks(hidden.contiguous(), condition, run)
        if self.config.num_condition_tokens:
            stream = settled(stream, run.kernels)[:, :, self.config.num_condition_tokens :]
        if self.config.conditioning == "clip_text":
            condition = time  # parity: the reference's final layer does not see the CLIP text
        return self._decode(stream, condition, run, rows).to(latents.dtype)

    def place_tables(
        self, size: Sequence[int], device: torch.device | str, num_images: int = 0
    ) -> ClipTables:
        """Compute everything that depends on the size alone, to be handed to many calls.

        Args:
            size: of the latents to come, (B, 4, F, h, w).
            device: of the latents to come.
            num_images: as in `forward`.

        Raises:
            InvalidInputError, IncompatibleInputsError: naming what does not fit.
        """
        latents = torch.empty(tuple(size), device="meta")
        rows, columns = check_latents(self.config, latents, num_images)
        num_frames = (size[2] - num_images) // self.config.tubelet_size
        return self._places_of(None, (rows, columns, num_frames), torch.device(device))

    def _places_of(
        self, places: ClipTables | None, size: tuple[int, int, int], device: torch.device
    ) -> ClipTables:
        """Return the tables that were handed in, or make them."""
        if places is not None:
            if places.size == size:
                return places
            raise IncompatibleInputsError(
                f"The tables of places are for (rows, columns, frames) = {places.size} of tokens, "
                f"but the latents have {size}. Make them with place_tables for these latents."
            )
        table = rotation = None
        if self.config.has_temporal_table:
            table = self._temporal_table(size[2], device)
        if self.config.has_temporal and self.config.temporal_positions == "rotary":
            head_width = self.config.hidden_size // self.config.attention_heads
            rotation = rotary_table(head_width, size[2], device)
        spatial = self._spatial_table(*size[:2], device)
        return ClipTables(spatial=spatial, temporal=table, rotation=rotation, size=size)

    def _plan(self, places: ClipTables, latents: Tensor, hooks: BlockHooks, is_on: bool) -> Pass:
        """Return what all blocks share; `is_on` says whether there is temporal attention."""
        return Pass(
            num_frames=places.size[2],
            hooks=hooks,
            temporal_table=places.temporal if is_on else None,
            rotation=places.rotation if is_on else None,
            is_temporal=is_on,
            kernels=self.kernels,
            carries=self.kernels.is_active(latents),
        )

    def _embed_latents(self, latents: Tensor, table: Tensor, run: Pass) -> Tensor:
        """Cut latents into tokens (B, F, S, D) that know their place."""
        hidden = self.x_embedder(latents)
        hidden = (hidden + table).to(hidden.dtype)
        if self.config.variant == 4:
            hidden = on_clip(hidden, run, partial(add_temporal_table, run=run))
        return hidden

    def _embed_labels(
        self,
        latents: Tensor,
        class_labels: Tensor,
        image_labels: Tensor | None,
        num_images: int,
        dropped: Tensor | None,
    ) -> Tensor:
        """Return (B, 1, D), or (B, 1 + I, D) where images have labels of their own."""
        config, batch = self.config, latents.shape[0]
        clip = send(check_labels(config, class_labels, (batch,)), latents.device)[:, None]
        is_split = dropped is not None and dropped.ndim == 2 and dropped.shape[1] == 2
        of_clip, of_images = (
            dropped.unbind(1) if dropped is not None and is_split else (dropped,) * 2
        )
        parts = [self._drop(clip, of_clip)]
        if image_labels is not None:
            images = check_labels(config, image_labels, (batch, num_images))
            images = send(images, latents.device)
            parts.append(self._drop(images, of_images))
        return self.y_embedder(torch.cat(parts, dim=1), self._compute_dtype(latents))

    def _drop(self, labels: Tensor, dropped: Tensor | None) -> Tensor:
        """Replace rows of labels (B, R) by the null class: the given ones, or random ones."""
        if dropped is None:
            if not self.training or not self.config.has_null_class:
                return labels
            draw = torch.rand(labels.shape[0], device=labels.device)
            dropped = draw < self.config.class_dropout_prob
        dropped = check_dropped(self.config, dropped, labels)
        return torch.where(dropped, self.config.null_class, labels)

    def _embed_text(self, text: Tensor, batch: int) -> Tensor:
        """Project CLIP text: (B, 1, D)."""
        flat = check_text(self.config, text, batch)
        return self.text_embedding_projection[1](F.silu(flat))[:, None]

    def _inject(
        self, hidden: Tensor, time: Tensor, given: Tensor | None, run: Pass
    ) -> tuple[Tensor, Tensor]:
        """Return the tokens and their condition, or tokens in front of them in its place."""
        if not self.config.num_condition_tokens:
            return hidden, time if given is None else time + given
        parts = [time] if given is None else [time, given]
        tokens = [
            spread_to_frames(part, run.num_frames).expand(-1, hidden.shape[1], -1).unsqueeze(2)
            for part in parts
        ]
        return torch.cat([*tokens, hidden], dim=2), time[:, :0]

    def _run_blocks(self, hidden: Tensor, condition: Tensor, run: Pass) -> Stream:
        """Run all blocks; a host may run, skip or replace units (pairs in variant 1)."""
        stream: Stream = hidden
        for unit in range(self.config.num_units):
            if run.hooks.run_block is None:
                stream = self._run_unit(unit, stream, condition, run)
            else:
                stream = self._run_hooked(unit, stream, condition, run)
        return stream

    def _run_hooked(self, unit: int, stream: Stream, condition: Tensor, run: Pass) -> Tensor:
        """Run a unit through the hook, which is given tokens (B, F*S, D)."""
        assert run.hooks.run_block is not None
        shape = stream.shape

        def apply(hidden: Tensor, _: Tensor, given: Tensor) -> Tensor:
            made = self._run_unit(unit, hidden.reshape(shape), given, run)
            return settled(made, run.kernels).flatten(1, 2)

        hidden = settled(stream, run.kernels).flatten(1, 2)
        return run.hooks.run_block(unit, apply, hidden, condition, condition).reshape(shape)

    def _run_unit(self, unit: int, stream: Stream, condition: Tensor, run: Pass) -> Stream:
        """Run the blocks of one unit on tokens (B, F, S, D)."""
        count = 2 if self.config.is_paired else 1
        for number in range(unit * count, (unit + 1) * count):
            stream = self.blocks[number](stream, condition, run, unit)
        return stream

    def _decode(self, stream: Stream, condition: Tensor, run: Pass, rows: int) -> Tensor:
        """Project tokens to patches and put these together: (B, C_out, F, h, w)."""
        patches = self.final_layer(stream, condition, run.num_frames, run.kernels)
        edge = self.config.patch_size
        return rearrange(patches, "b f (h w) (p q c) -> b c f (h p) (w q)", h=rows, p=edge, q=edge)

    def _spatial_table(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """Return (S, D) float32: the model's own table, or the formula's for another size."""
        side = self.config.table_side
        if (rows, columns) == (side, side):
            return self.pos_embed[0].to(device=device, dtype=torch.float32)
        return integer_table(self.config.hidden_size, rows, columns, device)

    def _temporal_table(self, num_frames: int, device: torch.device) -> Tensor:
        """Return (F, D) float32: the model's own table, or the formula's for another length."""
        if num_frames == self.temp_embed.shape[1]:
            return self.temp_embed[0].to(device=device, dtype=torch.float32)
        return temporal_table(self.config.hidden_size, num_frames, device)

    def _compute_dtype(self, given: Tensor) -> torch.dtype:
        """Layers of torch.nn compute in their weights' dtype, host layers in their input's."""
        return self.final_layer.linear.weight.dtype if self.casts_input else given.dtype


@torch.no_grad()
def initialize(model: Latte) -> None:
    """Set the initial weights of docs/model.md 2.7."""
    config = model.config
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    time: Any = model.t_embedder.mlp
    nn.init.normal_(time[0].weight, std=0.02)
    nn.init.normal_(time[2].weight, std=0.02)
    if config.injection == "adaln":
        modulated: list[Any] = [*model.blocks, model.final_layer]
        for part in modulated:
            nn.init.zeros_(part.adaLN_modulation[1].weight)
    nn.init.zeros_(model.final_layer.linear.weight)
    fill_tables(model)


@torch.no_grad()
def fill_tables(model: Latte) -> None:
    """Write both position tables by their formula (docs/model.md 2.3)."""
    config, device = model.config, model.pos_embed.device
    side = config.table_side
    model.pos_embed.copy_(integer_table(config.hidden_size, side, side, device))
    if config.has_temporal_table:
        count = model.temp_embed.shape[1]
        model.temp_embed.copy_(temporal_table(config.hidden_size, count, device))
