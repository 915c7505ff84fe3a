"""Latte, the class-conditional and unconditional video transformer (arXiv 2401.03048).

One model for the reference's Latte and LatteIMG (latte.md 2 and 3), whose weights have the same
names and meaning, and for the paper's four variants (latte.md 4). Attribute names are those of the
released weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..errors import IncompatibleInputsError, InvalidInputError
from ..latte_config import LatteConfig
from .attention import DEFAULT_HOOKS, BlockHooks
from .latte_blocks import Condition, LatteBlock, Pass, make_blocks
from .latte_layers import FinalLayer, LabelEmbedder, PatchEmbedder, TimestepEmbedder, fixed_table
from .positional import integer_table, temporal_table


class Latte(nn.Module):
    """Predict noise (and variance logits) of noisy video latents, with or without a class.

    Args:
        config: sizes and arrangement; see `LatteConfig`.
        operations: namespace with Linear, Embedding, Conv2d and Conv3d from which every layer is
            made. A namespace other than torch.nn is taken to cast weights by itself.
        dtype, device: of the layers; the position tables are always float32.
    """

    def __init__(
        self,
        config: LatteConfig,
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
        self.x_embedder = PatchEmbedder(config, **made_by)
        self.t_embedder = TimestepEmbedder(width, **made_by)
        if config.conditioning == "class":
            self.y_embedder = LabelEmbedder(config.num_classes, width, **made_by)
        if config.conditioning == "clip_text":
            linear = operations.Linear(config.text_features, width, dtype=dtype, device=device)
            self.text_embedding_projection = nn.ModuleList([nn.SiLU(), linear])
        self.pos_embed = fixed_table(config.table_side**2, width, device)
        if config.has_temporal:
            self.temp_embed = fixed_table(config.num_frames // config.tubelet_size, width, device)
        self.blocks = nn.ModuleList(make_blocks(config, **made_by))
        self.final_layer = FinalLayer(config, **made_by)

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any] | LatteConfig,
        *,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Latte:
        """Build a model to train, with initial weights (latte.md 2.7): its output is exactly 0.

        Raises:
            InvalidInputError: for an unknown key or a value out of range.
        """
        if not isinstance(config, LatteConfig):
            config = LatteConfig.from_dict(config)
        model = cls(config, operations=operations, dtype=dtype, device=device)
        initialize(model)
        return model

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        class_labels: Tensor | None = None,
        *,
        text_embedding: Tensor | None = None,
        num_images: int = 0,
        image_labels: Tensor | None = None,
        enable_temporal_attention: bool = True,
        hooks: BlockHooks = DEFAULT_HOOKS,
    ) -> Tensor:
        """Predict noise and variance logits.

        In training mode labels are replaced by the null class at random, as the config says.

        Args:
            latents: (B, 4, F, h, w) noisy latents; h and w are multiples of the patch size.
            timesteps: (B,) or (), 0 .. 999, int or float.
            class_labels: (B,) or (1,), 0 .. num_classes, the last being the null class; needed by
                class-conditional models and refused by others.
            text_embedding: (B, 77, 768), or flattened; for "clip_text" models.
            num_images: how many of the F frames, the last ones, are single images, which no
                temporal attention sees (joint training, latte.md 3).
            image_labels: (B, num_images) labels of the images; without them the clip's serve.
            enable_temporal_attention: False makes F independent images.
            hooks: what a host does in the place of attention and around blocks.

        Returns:
            (B, 8, F, h, w): 4 noise channels, then 4 variance channels (none of them if variance
            is not learned), in the dtype of `latents`.

        Raises:
            InvalidInputError, IncompatibleInputsError: naming what does not fit.
        """
        rows, columns = self._check_latents(latents, num_images)
        dtype = self._compute_dtype(latents)
        batch, _, frames, _, _ = latents.shape
        timesteps = torch.as_tensor(timesteps, device=latents.device).expand(batch)
        time = self.t_embedder(timesteps, dtype)  # B D
        steering = self._steering(latents, class_labels, text_embedding, image_labels, num_images)

        hidden = self.x_embedder(latents.to(dtype))  # B F S D
        hidden = (hidden + self._spatial_table(rows, columns, hidden.device)).to(dtype)
        num_frames = (frames - num_images) // self.config.tubelet_size
        table = self._temporal_table(num_frames, hidden.device)
        if self.config.variant == 4 and table is not None and enable_temporal_attention:
            clip = hidden[:, :num_frames] + table[:, None].to(dtype)
            hidden = torch.cat([clip, hidden[:, num_frames:]], dim=1)
            table = None
        condition, extra_tokens = self._inject(time, steering, hidden.shape[1])
        hidden = torch.cat([*extra_tokens, hidden], dim=2)
        run = Pass(
            condition=condition,
            num_frames=num_frames,
            hooks=hooks,
            temporal_table=table,
            is_temporal=enable_temporal_attention,
        )
        hidden = self._run_blocks(hidden, run)[:, :, len(extra_tokens) :]
        return self._decode(hidden, time, run, rows).to(latents.dtype)

    def _run_blocks(self, hidden: Tensor, run: Pass) -> Tensor:
        """Run all blocks; a host may run, skip or replace units (pairs in variant 1)."""
        blocks: list[LatteBlock] = list(self.blocks)  # pyright: ignore[reportAssignmentType]
        step = 2 if self.config.is_paired else 1
        first_temporal = self.config.depth // 2 if self.config.variant == 2 else step - 1
        shape = hidden.shape
        clip = hidden.new_zeros(shape[0], shape[3]) if run.condition is None else run.condition.clip
        hidden = hidden.flatten(1, 2)  # B (F S) D, as hosts know it
        for unit in range(self.config.num_units):
            numbers = range(unit * step, (unit + 1) * step)

            def apply(hidden: Tensor, _: Tensor, __: Tensor, numbers: range = numbers) -> Tensor:
                tokens = hidden.view(shape)
                for number in numbers:
                    is_first = number == first_temporal
                    tokens = blocks[number](tokens, run, number // step, is_first)
                return tokens.flatten(1, 2)

            if run.hooks.run_block is None:
                hidden = apply(hidden, clip, clip)
            else:
                hidden = run.hooks.run_block(unit, apply, hidden, clip[:, None], clip)
        return hidden.view(shape)

    def _decode(self, hidden: Tensor, time: Tensor, run: Pass, rows: int) -> Tensor:
        """Project tokens to patches and put these together: (B, C_out, F, h, w)."""
        condition = None
        if run.condition is not None:
            is_text = self.config.conditioning == "clip_text"
            # parity: the reference's final layer does not see the CLIP text
            condition = time[:, None] if is_text else run.condition.per_frame(run.num_frames)
        patches = self.final_layer(hidden, condition)
        edge = self.config.patch_size
        return rearrange(patches, "b f (h w) (p q c) -> b c f (h p) (w q)", h=rows, p=edge, q=edge)

    def _steering(
        self,
        latents: Tensor,
        labels: Tensor | None,
        text: Tensor | None,
        image_labels: Tensor | None,
        num_images: int,
    ) -> Condition | None:
        """Embed label or text: what is added to the timestep embedding, or None."""
        batch, dtype = latents.shape[0], self._compute_dtype(latents)
        self._check_steering(labels, text)
        if text is not None:
            flat = text.to(latents.device, dtype).flatten(1)
            return Condition(clip=self.text_embedding_projection[1](F.silu(flat)).expand(batch, -1))
        if labels is None:
            return None
        clip = self._check_labels(labels, (batch,), latents.device)
        images = None
        if num_images and image_labels is not None:
            images = self._check_labels(image_labels, (batch, num_images), latents.device)
        if self.training:
            clip, images = self._drop(clip), None if images is None else self._drop(images)
        return Condition(
            clip=self.y_embedder(clip, dtype),
            images=None if images is None else self.y_embedder(images, dtype),
        )

    def _inject(
        self, time: Tensor, steering: Condition | None, frames: int
    ) -> tuple[Condition | None, list[Tensor]]:
        """Return the modulation's condition, or the tokens (B, F, 1, D) that take its place."""
        if self.config.injection == "adaln":
            if steering is None:
                return Condition(clip=time), []
            images = steering.images
            return Condition(
                clip=time + steering.clip,
                images=None if images is None else time[:, None] + images,
            ), []
        tokens = [time[:, None, None].expand(-1, frames, -1, -1)]
        if steering is not None:
            count = 0 if steering.images is None else steering.images.shape[1]
            own = steering.per_frame(frames - count)
            tokens.append(own.expand(-1, frames, -1).unsqueeze(2))
        return None, tokens

    def _drop(self, labels: Tensor) -> Tensor:
        """Replace labels by the null class, one draw for each row."""
        draw = torch.rand(labels.shape[0], device=labels.device)
        dropped = (draw < self.config.class_dropout_prob).view(-1, *[1] * (labels.ndim - 1))
        return torch.where(dropped, self.config.null_class, labels)

    def _spatial_table(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """Return (S, D) float32: the model's own table, or the formula's for another size."""
        side = self.config.table_side
        if (rows, columns) == (side, side):
            return self.pos_embed[0].to(device=device, dtype=torch.float32)
        width = self.config.hidden_size
        return integer_table(width, rows, columns, device)

    def _temporal_table(self, num_frames: int, device: torch.device) -> Tensor | None:
        """Return (F, D) float32, or None where positions are rotary."""
        if self.config.temporal_positions == "rotary" or not self.config.has_temporal:
            return None
        if num_frames == self.temp_embed.shape[1]:
            return self.temp_embed[0].to(device=device, dtype=torch.float32)
        return temporal_table(self.config.hidden_size, num_frames, device)

    def _compute_dtype(self, given: Tensor) -> torch.dtype:
        """Layers of torch.nn compute in their weights' dtype, host layers in their input's."""
        return self.final_layer.linear.weight.dtype if self.casts_input else given.dtype

    def _check_latents(self, latents: Tensor, num_images: int) -> tuple[int, int]:
        config = self.config
        if latents.ndim != 5 or latents.shape[1] != config.in_channels or 0 in latents.shape:
            raise IncompatibleInputsError(
                f"The latents have shape {tuple(latents.shape)}, but this Latte model expects "
                f"(videos, {config.in_channels}, frames, height, width)."
            )
        frames, height, width = latents.shape[2:]
        if height % config.patch_size or width % config.patch_size:
            raise InvalidInputError(
                f"The latents are {height} x {width} cells, but sides must be multiples of "
                f"{config.patch_size} cells ({8 * config.patch_size} pixels)."
            )
        if frames % config.tubelet_size:
            raise InvalidInputError(
                f"The latents have {frames} frames, but this Latte joins {config.tubelet_size} "
                f"frames in a token, so their number must be a multiple of {config.tubelet_size}."
            )
        if not 0 <= num_images < frames or (num_images and config.tubelet_size > 1):
            raise InvalidInputError(
                f"{num_images} of {frames} frames were given as single images; at least one frame "
                "must belong to the clip, and models with tubelets take no images."
            )
        return height // config.patch_size, width // config.patch_size

    def _check_steering(self, labels: Tensor | None, text: Tensor | None) -> None:
        kind = self.config.conditioning
        if kind == "class" and labels is None:
            raise InvalidInputError(
                f"This Latte model makes videos of {self.config.num_classes} classes, but no "
                f"class label was given. Pass `class_labels`, 0 to {self.config.num_classes - 1} "
                f"({self.config.null_class} means any class)."
            )
        if kind == "clip_text" and text is None:
            raise InvalidInputError(
                "This Latte model was trained with CLIP text, but got none. Pass `text_embedding` "
                f"with {self.config.text_features} values for each video."
            )
        if labels is not None and kind != "class":
            raise IncompatibleInputsError(
                "A class label was given, but this Latte model has no classes. Leave it out, or "
                "load a class-conditional model such as ucf101."
            )
        if text is None:
            return
        if kind != "clip_text" or text.ndim < 2 or text[0].numel() != self.config.text_features:
            raise IncompatibleInputsError(
                f"A text embedding of shape {tuple(text.shape)} was given, but this Latte model "
                f"({kind} conditioning) does not read such text."
            )

    def _check_labels(self, labels: Tensor, shape: tuple[int, ...], device: torch.device) -> Tensor:
        labels = torch.as_tensor(labels)
        if labels.is_floating_point() or labels.dtype == torch.bool or labels.is_complex():
            raise InvalidInputError(
                f"Class labels must be whole numbers, but have type {labels.dtype}."
            )
        if labels.shape != shape and labels.numel() != 1:
            raise IncompatibleInputsError(
                f"There are class labels of shape {tuple(labels.shape)}, but {shape} are needed: "
                "one for each video, or a single one for all."
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high > self.config.num_classes:
            raise InvalidInputError(
                f"The class label {low if low < 0 else high} is out of range: this Latte model "
                f"knows the classes 0 to {self.config.num_classes - 1}, and "
                f"{self.config.null_class} for any class."
            )
        return labels.to(device=device, dtype=torch.long).expand(shape)


@torch.no_grad()
def initialize(model: Latte) -> None:
    """Set the initial weights of latte.md 2.7; nothing is done to weights without storage."""
    if model.pos_embed.is_meta:
        return
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
    """Write both position tables by their formula (latte.md 2.3)."""
    config, device = model.config, model.pos_embed.device
    side = config.table_side
    model.pos_embed.copy_(integer_table(config.hidden_size, side, side, device))
    if config.has_temporal:
        count = model.temp_embed.shape[1]
        model.temp_embed.copy_(temporal_table(config.hidden_size, count, device))
