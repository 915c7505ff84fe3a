"""Class-conditional and unconditional Lattes as native ComfyUI models; also DiT's image models.

The siblings of those in `t2v.py`: the same latents, schedule and patches. A label takes the place
of text; guidance reaches the predicted noise alone, since the variance never leaves the transformer
as part of its output (docs/model.md 2.9).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ....latte_core.checkpoint.recognition.families import CLASS_NODE
from ....latte_core.checkpoint.recognition.titles import advice_of, title_of
from ....latte_core.config.latte import LatteConfig
from ....latte_core.errors import IncompatibleInputsError
from ....latte_core.model.latte.transformer import Latte
from ..base.conditions import CLASS, find_label, kind_read
from ..base.detection import CLASS_MODEL
from ..base.layout import fold_frames, one_per_video, pad_to_patch, rows_for_videos
from .conds import Kept, LabelCond
from .hooks import TEMPORAL_ATTENTION, make_hooks, noise_of, with_cache
from .native import STOCK_SAMPLER, HostTransformer, LatteBase, LatteModel, socket_of


class LatteClassTransformer(HostTransformer, Latte):  # type: ignore[override]  # two `forward`s
    """Latte with ComfyUI's calling convention and its patches, wrappers and attention.

    The labels are the keyword `y`: (conds,) or as many numbers, 0 .. num_classes.
    """

    config_class = LatteConfig

    def predict(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor | None,
        transformer_options: dict[str, Any],
        y: Tensor | Sequence[int] | None = None,
        latte_kept: Kept | None = None,
        **__: Any,
    ) -> Tensor:
        """Fold frames into videos, run the transformer, drop the variance, unfold.

        Tables of places are made once in a run where there is a place to keep them.
        """
        conds = len(transformer_options.get("cond_or_uncond", ())) or 1
        videos = fold_frames(x, conds)
        count, _, frames, height, width = videos.shape
        patch, tubelet = self.config.patch_size, self.config.tubelet_size
        videos = pad_to_patch(videos, patch, tubelet)
        slots, rows, columns = videos.shape[2:]
        grid = (slots // tubelet, rows // patch, columns // patch)
        hooks = make_hooks(transformer_options, grid, self.config.num_units)
        kept, size = Kept() if latte_kept is None else latte_kept, tuple(videos.shape)
        output = Latte.forward(
            self,
            videos,
            one_per_video(timestep, count),
            self.labels_for(y, conds, count),
            enable_temporal_attention=transformer_options.get(TEMPORAL_ATTENTION, True),
            places=kept.get(("places", size, x.device), lambda: self.place_tables(size, x.device)),
            hooks=with_cache(hooks, transformer_options, timestep, count),
        )[:, :, :frames, :height, :width]
        return noise_of(output, x, transformer_options)

    def labels_for(
        self, labels: Tensor | Sequence[int] | None, conds: int, videos: int
    ) -> Tensor | None:
        """Return a label for each video, or None for a model without classes."""
        if kind_read(self.config) != CLASS:
            return None
        if labels is None:
            raise IncompatibleInputsError(
                "The Latte model got no class: its CONDITIONING inputs carry no label. Connect "
                f'"{CLASS_NODE}" to positive and negative.'
            )
        return rows_for_videos(torch.as_tensor(labels), conds, videos)


class LatteClassVideo(LatteModel):
    """What a MODEL socket carries where there is no text."""

    transformer_class = LatteClassTransformer

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Turn the class of a conditioning into a label."""
        config = self.diffusion_model.config
        out = super().extra_conds(**kwargs)
        out.pop("c_crossattn", None)  # the placeholder beside a label
        if kind_read(config) == CLASS:
            names = self.model_config.class_names()
            label = find_label(config, names, kwargs, socket_of(kwargs), STOCK_SAMPLER)
            out["y"] = LabelCond(label)
        return out


class LatteClassConfig(LatteBase):
    """How ComfyUI's loaders recognise and build models without text."""

    config_class = LatteConfig
    model_class = LatteClassVideo
    unet_config = {"image_model": CLASS_MODEL}
    memory_usage_factor = 0.5  # traced, with a fifth on top: benchmarks/memory.py
    supported_inference_dtypes = [torch.float16, torch.bfloat16, torch.float32]

    def get_model(self, state_dict: Any, prefix: str = "", device: Any = None) -> LatteModel:
        """Build the model; weights follow through `load_model_weights`.

        Raises:
            IncompatibleInputsError: for a model of CLIP text, which no node can give it.
        """
        config = self.transformer_config()
        if isinstance(config, LatteConfig) and config.conditioning == "clip_text":
            raise IncompatibleInputsError(
                f"This is {title_of(config)}, which cannot be opened here. {advice_of(config)}"
            )
        return super().get_model(state_dict, prefix, device)

    def clip_target(self, state_dict: Mapping[str, Any] | None = None) -> None:
        """Return None: there is no text encoder in these files."""
        return None
