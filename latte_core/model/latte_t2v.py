"""LatteT2V, the text-to-video transformer of Latte (arXiv 2401.03048; latte.md section 5).

Spatial blocks (self-attention within a frame, cross-attention to the text) alternate with temporal
blocks (self-attention across frames at each place). Attribute names are those of the released
weights, so a released file loads without a map.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..config import LatteT2VConfig
from ..errors import IncompatibleInputsError, InvalidInputError
from .attention import DEFAULT_HOOKS, BlockHooks
from .blocks import Grid, SpatialBlock, TemporalBlock, TextFeatures
from .layers import AdaLayerNormSingle, PatchEmbed, TwoLinear, modulate, normalize
from .positional import sincos_table, spatial_table, temporal_table

MASKED_LOGIT = -10000.0  # parity: added to the logits of masked text rows, finite on purpose
WHOLE_NUMBERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class LatteT2V(nn.Module):
    """Predict noise (and variance logits) of noisy video latents under a text prompt.

    Args:
        config: sizes; see `LatteT2VConfig`.
        operations: namespace with Linear and Conv2d from which every layer is made. A namespace
            other than torch.nn is taken to cast weights to its input by itself.
        dtype, device: of the layers; the small raw tables are always float32.
    """

    def __init__(
        self,
        config: LatteT2VConfig,
        *,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.casts_input = operations is nn
        width = config.hidden_size
        made_by: dict[str, Any] = {"operations": operations, "dtype": dtype, "device": device}
        block_args = (width, config.num_attention_heads, config.norm_eps)
        patch_values = config.patch_size**2 * config.out_channels

        self.pos_embed = PatchEmbed(config.in_channels, width, config.patch_size, **made_by)
        self.adaln_single = AdaLayerNormSingle(width, **made_by)
        self.caption_projection = TwoLinear(
            config.caption_channels, width, nn.GELU(approximate="tanh"), **made_by
        )
        self.transformer_blocks = nn.ModuleList(
            [SpatialBlock(*block_args, **made_by) for _ in range(config.num_layers)]
        )
        self.temporal_transformer_blocks = nn.ModuleList(
            [TemporalBlock(*block_args, **made_by) for _ in range(config.num_layers)]
        )
        table = torch.randn(2, width, dtype=torch.float32, device=device) / width**0.5
        self.scale_shift_table = nn.Parameter(table)
        self.proj_out = operations.Linear(width, patch_values, dtype=dtype, device=device)

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any] | LatteT2VConfig,
        *,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> LatteT2V:
        """Build with random weights from a config.json or its record, on the default device.

        Raises:
            InvalidInputError: for an unknown key or a value out of range.
        """
        if not isinstance(config, LatteT2VConfig):
            config = LatteT2VConfig.from_dict(config)
        return cls(config, operations=operations, dtype=dtype, device=device)

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
        return TextFeatures(
            tokens=tokens,
            keys=tuple(layer.to_k(tokens) for layer in cross),
            values=tuple(layer.to_v(tokens) for layer in cross),
            bias=bias,
        )

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
        hooks: BlockHooks = DEFAULT_HOOKS,
    ) -> Tensor:
        """Predict noise and variance logits.

        Args:
            latents: (B, 4, F, h, w) noisy latents; h and w are multiples of the patch size.
            timesteps: (B,) or (), 0 .. 999, int or float.
            context: (B, L, C) text; (1, L, C) serves all videos, (B*F, L, C) is one per frame.
            attention_mask: (B, L) or None.
            enable_temporal_attention: False makes F independent images.
            text: result of `project_text`, in place of `context` and `attention_mask`.
            frame_positions: (F,) or (B, F) whole numbers >= 0, the places in time of the frames;
                None means 0 .. F-1, and no place for a single frame.
            hooks: what a host does in the place of attention and around blocks.

        Returns:
            (B, 8, F, h, w): 4 noise channels, then 4 variance channels, in the dtype of `latents`.

        Raises:
            InvalidInputError, IncompatibleInputsError: naming what does not fit.
        """
        grid = self._check_latents(latents)
        dtype = self._compute_dtype(latents)
        if text is None:
            if context is None:
                raise InvalidInputError("The model got no text: pass `context` or `text`.")
            with_keys = not hooks.text_in_blocks
            context = context.to(latents.device)
            text = self.project_text(context, attention_mask, with_keys=with_keys)
        text = self._spread_text(text, grid)
        timesteps = torch.as_tensor(timesteps, device=latents.device).expand(grid.batch)
        embedding, modulation = self.adaln_single(timesteps, dtype)  # B D, B 6 D
        table = self._temporal_table(grid, frame_positions, latents.device)

        frames = rearrange(latents.to(dtype), "b c f h w -> (b f) c h w")
        hidden = self._embed(frames, grid)  # B (F S) D
        for index in range(self.config.num_layers):
            hidden = self._run_pair(
                index, hidden, text, modulation, grid, hooks, enable_temporal_attention, table
            )
        return self._final_layer(hidden, embedding, grid).to(latents.dtype)  # B 8 F h w

    def _embed(self, frames: Tensor, grid: Grid) -> Tensor:
        """Patchify and add the spatial table in float32: (B, F*S, D)."""
        config = self.config
        tokens = self.pos_embed(frames)  # (B F) S D
        base = config.sample_size / config.patch_size
        scale = max(config.sample_size // 64, 1)
        width = config.hidden_size
        table = spatial_table(width, grid.rows, grid.columns, base, scale, frames.device)
        tokens = (tokens + table).to(tokens.dtype)
        return tokens.reshape(grid.batch, -1, width)

    def _run_pair(
        self,
        index: int,
        hidden: Tensor,
        text: TextFeatures,
        modulation: Tensor,
        grid: Grid,
        hooks: BlockHooks,
        enable_temporal_attention: bool,
        table: Tensor | None,
    ) -> Tensor:
        """Run spatial block `index`, then temporal block `index`; `table` goes before the first."""
        spatial = self.transformer_blocks[index]
        temporal = self.temporal_transformer_blocks[index]

        def run(hidden: Tensor, _: Tensor, modulation: Tensor) -> Tensor:
            hidden = spatial(hidden, text, modulation, grid, hooks, index)
            if not enable_temporal_attention:
                return hidden
            if index == 0 and table is not None:
                frames = hidden.view(grid.batch, grid.num_frames, -1, hidden.shape[2])
                hidden = (frames + table.to(hidden.dtype)).flatten(1, 2)
            return temporal(hidden, modulation, grid, hooks, index)

        if hooks.run_block is None:
            return run(hidden, text.tokens, modulation)
        return hooks.run_block(index, run, hidden, text.tokens, modulation)

    def _temporal_table(
        self, grid: Grid, positions: Tensor | None, device: torch.device
    ) -> Tensor | None:
        """Return (1 or B, F, 1, D) float32, or None for a single frame without a place."""
        width, frames = self.config.hidden_size, grid.num_frames
        if positions is None:
            if frames == 1:
                return None
            return temporal_table(width, frames, device)[None, :, None]
        is_whole = positions.dtype in WHOLE_NUMBERS
        fits = positions.shape in ((frames,), (grid.batch, frames))
        if not is_whole or not fits or int(positions.min()) < 0:
            lowest = f", lowest {int(positions.min())}" if is_whole and fits else ""
            raise IncompatibleInputsError(
                f"The frame positions have shape {tuple(positions.shape)} and type "
                f"{positions.dtype}{lowest}, but {frames} of them, whole numbers from 0 on, are "
                "needed for all videos, or for each."
            )
        rows = sincos_table(width, positions.flatten().cpu()).view(-1, frames, 1, width)
        return rows.to(device)

    def _final_layer(self, hidden: Tensor, embedding: Tensor, grid: Grid) -> Tensor:
        """Modulate, project each token to its patch and put the patches together."""
        table = self.scale_shift_table.to(device=hidden.device, dtype=hidden.dtype)
        shift, scale = (table + embedding[:, None]).chunk(2, dim=1)  # B 1 D
        hidden = modulate(normalize(hidden, self.config.norm_eps), shift, scale)
        return rearrange(
            self.proj_out(hidden),
            "b (f h w) (p q c) -> b c f (h p) (w q)",
            f=grid.num_frames,
            h=grid.rows,
            p=self.config.patch_size,
            q=self.config.patch_size,
        )

    def _compute_dtype(self, given: Tensor) -> torch.dtype:
        """Layers of torch.nn compute in their weights' dtype, host layers in their input's."""
        return self.proj_out.weight.dtype if self.casts_input else given.dtype

    def _check_latents(self, latents: Tensor) -> Grid:
        channels, patch = self.config.in_channels, self.config.patch_size
        if latents.ndim != 5 or latents.shape[1] != channels:
            raise IncompatibleInputsError(
                f"The latents have shape {tuple(latents.shape)}, but this Latte model expects "
                f"(videos, {channels}, frames, height, width)."
            )
        batch, _, num_frames, height, width = latents.shape
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

    def _spread_text(self, text: TextFeatures, grid: Grid) -> TextFeatures:
        """Let one prompt serve all videos; refuse counts that fit neither videos nor frames."""
        count = text.tokens.shape[0]
        if count in (grid.batch, grid.batch * grid.num_frames):
            return text
        if count != 1:
            raise IncompatibleInputsError(
                f"There are {count} text conditionings for {grid.batch} videos of "
                f"{grid.num_frames} frames; expected one for all, one per video or one per frame."
            )
        return TextFeatures(
            tokens=text.tokens.expand(grid.batch, -1, -1),
            keys=tuple(key.expand(grid.batch, -1, -1) for key in text.keys),
            values=tuple(value.expand(grid.batch, -1, -1) for value in text.values),
            bias=None if text.bias is None else text.bias.expand(grid.batch, -1, -1),
        )
