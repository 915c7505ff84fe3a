"""LatteT2V, the text-to-video transformer of Latte (arXiv 2401.03048; docs/model.md 5).

Spatial blocks (self-attention within a frame, cross-attention to the text) alternate with temporal
blocks (self-attention across frames at each place). Attribute names are those of the released
weights, so a released file loads without a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ...config.t2v import LatteT2VConfig
from ...errors import IncompatibleInputsError, InvalidInputError
from ..attention import DEFAULT_HOOKS, BlockHooks
from ..base import LayerMaker, VideoTransformer
from ..layers import AdaLayerNormSingle, PatchEmbed, TwoLinear, modulation_rows
from ..residual import Owed, Stream, settled, settled_norm
from .blocks import (
    Grid,
    Pass,
    SpatialBlock,
    TemporalBlock,
    TextFeatures,
    doubled,
    modulation_table,
)
from .places import PlaceTables, make_tables

MASKED_LOGIT = -10000.0  # parity: added to the logits of masked text rows, finite on purpose


class LatteT2V(VideoTransformer[LatteT2VConfig]):
    """Predict noise (and variance logits) of noisy video latents under a text prompt.

    Of the namespace that makes its layers it uses Linear and Conv2d. `pads_text` makes texts of a
    few lengths out of those of any, for whoever makes a graph of each.
    """

    config_type = LatteT2VConfig
    pads_text = False

    def make_layers(self, config: LatteT2VConfig, make: LayerMaker) -> None:
        """Make the layers of `config`."""
        width, layers = config.hidden_size, range(config.num_layers)
        patch_values = config.patch_size**2 * config.out_channels
        gelu = nn.GELU(approximate="tanh")

        self.pos_embed = PatchEmbed(config.in_channels, width, config.patch_size, make)
        self.adaln_single = AdaLayerNormSingle(width, make)
        self.caption_projection = TwoLinear(config.caption_channels, width, gelu, make)
        self.transformer_blocks = nn.ModuleList([SpatialBlock(config, make) for _ in layers])
        self.temporal_transformer_blocks = nn.ModuleList(
            [TemporalBlock(config, make) for _ in layers]
        )
        self.scale_shift_table = modulation_table(2, width, make.device)
        self.proj_out = make.linear(width, patch_values)

    def project_text(
        self, context: Tensor, attention_mask: Tensor | None = None, *, with_keys: bool = True
    ) -> TextFeatures:
        """Compute everything that depends on the text alone, to be handed to many calls.

        Args:
            context: (B, L, C) text encoder output; B*F rows give each frame its own prompt.
            attention_mask: (B, L), 1 or True for rows to attend to; None attends to all.
            with_keys: False leaves keys and values to the blocks.

        Raises:
            IncompatibleInputsError: if the text has another width than the model was made for.
        """
        self._check_context(context, attention_mask)
        tokens = self.caption_projection(context.to(self._compute_dtype(context)))  # B L D
        blocks: list[Any] = [*self.transformer_blocks] if with_keys else []
        cross = [block.attn2 for block in blocks]
        bias = None
        if attention_mask is not None:
            bias = ((1 - attention_mask.to(tokens.dtype)) * MASKED_LOGIT).unsqueeze(1)  # B 1 L
        text = TextFeatures(
            tokens=tokens,
            keys=tuple(layer.to_k(tokens) for layer in cross),
            values=tuple(layer.to_v(tokens) for layer in cross),
            bias=bias,
        )
        return text.padded() if self.pads_text else text

    def place_tables(
        self,
        size: Sequence[int],
        device: torch.device | str,
        frame_positions: Tensor | None = None,
    ) -> PlaceTables:
        """Compute everything that depends on the size alone, to be handed to many calls.

        Args:
            size: of the latents to come, (B, 4, F, h, w).
            device: of the latents to come.
            frame_positions: as in `forward`.

        Raises:
            InvalidInputError, IncompatibleInputsError: naming what does not fit.
        """
        grid = self._check_size(tuple(size))
        return make_tables(self.config, grid, frame_positions, torch.device(device))

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        attention_mask: Tensor | None = None,
        enable_temporal_attention: bool = True,
        *,
        text: TextFeatures | None = None,
        frame_positions: Tensor | None = None,
        places: PlaceTables | None = None,
        shared_input: bool = False,
        noise_only: bool = False,
        hooks: BlockHooks = DEFAULT_HOOKS,
    ) -> Tensor:
        """Predict noise and variance logits.

        Args:
            latents: (B, 4, F, h, w) noisy latents; h and w are multiples of the patch size.
            timesteps: (B,), 0 .. 999, int or float. A single one serves all videos, (1,) or (), in
                fewer passes over memory than B equal ones.
            context: (B, L, C) text; (1, L, C) serves all videos, (B*F, L, C) is one per frame.
            attention_mask: (B, L) or None.
            enable_temporal_attention: False makes F independent images.
            text: result of `project_text`, in place of `context` and `attention_mask`.
            frame_positions: (F,) or (B, F) whole numbers >= 0, the places in time of the frames;
                None means 0 .. F-1, and no place for a single frame.
            places: result of `place_tables`, in place of `frame_positions`.
            shared_input: the caller's word that the second half of the batch has the latents and
                timesteps of the first, as under guidance. What comes before the first
                cross-attention is computed once then, and hooks see half a batch there.
            noise_only: leave out the variance logits.
            hooks: what a host does in the place of attention and around blocks.

        Returns:
            (B, 8, F, h, w): 4 noise channels, then 4 variance channels, in the dtype of `latents`;
            (B, 4, F, h, w) with `noise_only`.

        Raises:
            InvalidInputError, IncompatibleInputsError: naming what does not fit.
        """
        grid = self._check_size(tuple(latents.shape))
        if shared_input and grid.batch % 2:
            raise InvalidInputError(
                f"There are {grid.batch} videos, but shared_input is for an even number of them, "
                "whose second half is the first once more."
            )
        text = self._text_of(text, context, attention_mask, hooks, latents.device).spread(grid)
        places = self._places_of(places, frame_positions, grid, latents.device)
        dtype = self._compute_dtype(latents)
        timesteps = torch.as_tensor(timesteps, device=latents.device)
        count = 1 if timesteps.numel() == 1 else grid.batch
        embedding, modulation = self.adaln_single(timesteps.expand(count), dtype)  # B D, B 6 D
        run = Pass(
            grid=grid,
            text=text,
            hooks=hooks,
            modulation=modulation,
            rows=None if hooks.text_in_blocks else self._rows_of_blocks(modulation),
            temporal_table=places.temporal,
            is_temporal=enable_temporal_attention,
            is_shared=shared_input,
            kernels=self.kernels,
            carries=(
                hooks.run_block is None
                and not hooks.text_in_blocks
                and self.kernels.is_active(modulation)
            ),
        )
        seen = latents[: grid.batch // 2] if shared_input else latents
        stream: Stream = self._embed(seen.to(dtype), places.spatial)  # B (F S) D
        if self.kernels.is_active(stream):
            stream = stream.contiguous()  # kernels read rows; a single frame's patches are columns
        stream = Owed(stream, None, None) if run.carries else stream  # to be let go by its norm
        for index in range(self.config.num_layers):
            stream = self._run_pair(index, stream, run)
        return self._final_layer(stream, embedding, grid, noise_only).to(latents.dtype)

    def _embed(self, latents: Tensor, table: Tensor) -> Tensor:
        """Patchify and add the spatial table in float32: (B, F*S, D)."""
        tokens = self.pos_embed(rearrange(latents, "b c f h w -> (b f) c h w"))  # (B F) S D
        tokens = (tokens + table).to(tokens.dtype)
        return tokens.reshape(latents.shape[0], -1, tokens.shape[2])

    def _rows_of_blocks(self, modulation: Tensor) -> Tensor:
        """Add the tables of all blocks to the modulation at once: (blocks, B or 1, 6, D)."""
        blocks: list[Any] = [*self.transformer_blocks, *self.temporal_transformer_blocks]
        tables = [block.scale_shift_table.to(modulation.device) for block in blocks]
        return modulation_rows(torch.stack(tables), modulation)

    def _run_pair(self, index: int, stream: Stream, run: Pass) -> Stream:
        """Run a pair of blocks through the hook, if there is one."""
        run_block = run.hooks.run_block
        if run_block is None:
            return self._pair(index, stream, run.modulation, run)
        hidden = settled(stream, run.kernels)
        # a hook is given a whole batch, whatever the pair itself makes of it
        given = doubled(hidden) if hidden.shape[0] < run.grid.batch else hidden

        def pair(tokens: Tensor, _: Tensor, modulation: Tensor) -> Tensor:
            tokens = hidden if tokens is given else tokens
            return settled(self._pair(index, tokens, modulation, run), run.kernels)

        return run_block(index, pair, given, run.text.tokens, run.modulation)

    def _pair(self, index: int, stream: Stream, modulation: Tensor, run: Pass) -> Stream:
        """Run spatial block `index`, then temporal block `index`."""
        rows = run.rows_for(index, modulation)
        stream = self.transformer_blocks[index](stream, modulation, rows, run, index)
        if not run.is_temporal:
            return stream
        if index == 0 and run.temporal_table is not None:
            stream = self._add_times(stream, run.temporal_table, run)
        rows = run.rows_for(self.config.num_layers + index, modulation)
        return self.temporal_transformer_blocks[index](stream, modulation, rows, run, index)

    def _add_times(self, stream: Stream, table: Tensor, run: Pass) -> Stream:
        """Add the table of places in time, (1 or B, F, 1, D)."""
        hidden = settled(stream, run.kernels)
        frames = hidden.view(run.grid.batch, run.grid.num_frames, -1, hidden.shape[2])
        added = (frames + table.to(hidden.dtype)).flatten(1, 2)
        return Owed(added, None, None) if run.carries else added

    def _final_layer(
        self, stream: Stream, embedding: Tensor, grid: Grid, noise_only: bool
    ) -> Tensor:
        """Modulate, project each token to its patch and put the patches together."""
        config = self.config
        table = self.scale_shift_table.to(device=embedding.device, dtype=embedding.dtype)
        shift, scale = (table + embedding[:, None]).chunk(2, dim=1)  # B 1 D
        _, tokens = settled_norm(stream, shift, 1 + scale, config.norm_eps, self.kernels)
        patches: Tensor = self.proj_out(tokens)
        patches = patches.view(*stream.shape[:2], -1, config.out_channels)
        return rearrange(
            patches[..., : config.in_channels] if noise_only else patches,
            "b (f h w) (p q) c -> b c f (h p) (w q)",
            f=grid.num_frames,
            h=grid.rows,
            p=config.patch_size,
            q=config.patch_size,
        )

    def _text_of(
        self,
        text: TextFeatures | None,
        context: Tensor | None,
        attention_mask: Tensor | None,
        hooks: BlockHooks,
        device: torch.device,
    ) -> TextFeatures:
        """Return the text as it was handed in, or project it."""
        if text is not None:
            return text
        if context is None:
            raise InvalidInputError("The model got no text: pass `context` or `text`.")
        with_keys = not hooks.text_in_blocks
        return self.project_text(context.to(device), attention_mask, with_keys=with_keys)

    def _places_of(
        self,
        places: PlaceTables | None,
        positions: Tensor | None,
        grid: Grid,
        device: torch.device,
    ) -> PlaceTables:
        """Return the tables that were handed in, or make them."""
        if places is None:
            return make_tables(self.config, grid, positions, device)
        if positions is not None:
            raise InvalidInputError("Pass `places` or `frame_positions`, not both.")
        places.check(grid)
        return places

    def _compute_dtype(self, given: Tensor) -> torch.dtype:
        """Layers of torch.nn compute in their weights' dtype, host layers in their input's."""
        return self.proj_out.weight.dtype if self.casts_input else given.dtype

    def _check_size(self, size: tuple[int, ...]) -> Grid:
        channels, patch = self.config.in_channels, self.config.patch_size
        if len(size) != 5 or size[1] != channels:
            raise IncompatibleInputsError(
                f"The latents have shape {size}, but this Latte model expects "
                f"(videos, {channels}, frames, height, width)."
            )
        batch, _, num_frames, height, width = size
        if height % patch or width % patch or not (batch and num_frames and height and width):
            raise InvalidInputError(
                f"The latents are {height} x {width} cells with {num_frames} frames, but sides "
                f"must be multiples of {patch} cells ({8 * patch} pixels) and nothing may be empty."
            )
        return Grid(
            batch=batch, num_frames=num_frames, rows=height // patch, columns=width // patch
        )

    def _check_context(self, context: Tensor, attention_mask: Tensor | None) -> None:
        expected = self.config.caption_channels
        if context.ndim != 3 or context.shape[2] != expected or not context.shape[1]:
            raise IncompatibleInputsError(
                f"The text conditioning has shape {tuple(context.shape)}, but this Latte model "
                f"expects (prompts, tokens, {expected}). Encode the prompt with the T5 encoder "
                "that belongs to this model (Latte Text Encoder Loader)."
            )
        if attention_mask is not None and attention_mask.shape != context.shape[:2]:
            raise IncompatibleInputsError(
                f"The attention mask has shape {tuple(attention_mask.shape)}, but the text has "
                f"{tuple(context.shape[:2])} (prompts, tokens)."
            )
