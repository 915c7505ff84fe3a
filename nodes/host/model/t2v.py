"""Text-to-video Latte as a native ComfyUI model: config class, BaseModel and transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....latte_core.config.t2v import LatteT2VConfig
from ....latte_core.errors import IncompatibleInputsError
from ....latte_core.model.t2v.transformer import LatteT2V
from ..base.conditions import guess_encoder
from ..base.detection import T2V_MODEL
from ..base.layout import fold_frames, one_for_all, one_per_video, pad_to_patch, rows_for_videos
from .conds import CONTEXT, KEPT, Kept, TextCond
from .hooks import TEMPORAL_ATTENTION, VARIANCE_COLLECTOR, make_hooks, noise_of, with_cache
from .native import HostTransformer, LatteBase, LatteModel, socket_of


class LatteTransformer(HostTransformer, LatteT2V):  # type: ignore[override]  # two `forward`s
    """LatteT2V with ComfyUI's calling convention and its patches, wrappers and attention."""

    config_class = LatteT2VConfig

    def predict(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor | None,
        transformer_options: dict[str, Any],
        latte_kept: Kept | None = None,
        **_: Any,
    ) -> Tensor:
        """Fold frames into videos, run the transformer, drop the variance, unfold.

        Text that has come as the run's conditionings have it, and places, are prepared once in a
        run where there is a place to keep them.
        """
        conds = len(transformer_options.get("cond_or_uncond", ())) or 1
        videos = fold_frames(x, conds)
        height, width = videos.shape[-2:]
        patch = self.config.patch_size
        videos = pad_to_patch(videos, patch)
        if context is None:
            raise IncompatibleInputsError(
                "The Latte model got no text: its CONDITIONING inputs carry no tensor. Connect "
                '"Latte Text Encode" (or CLIP Text Encode with a T5 encoder) to positive and '
                "negative."
            )
        frames, rows, columns = videos.shape[2:]
        grid = (frames, rows // patch, columns // patch)
        hooks = make_hooks(transformer_options, grid, self.config.num_layers)
        kept = Kept() if latte_kept is None else latte_kept
        size = tuple(videos.shape)
        # text that something has changed on the way is prepared for this call alone
        of_text = kept if context is kept.find(CONTEXT) else Kept()
        is_alone = latte_kept is None or hooks.run_block is not None
        output = LatteT2V.forward(
            self,
            videos,
            one_per_video(timestep, size[0]) if is_alone else one_for_all(timestep, conds, size[0]),
            text=of_text.get(
                ("text", size[0], self.pads_text),
                lambda: self.project_text(rows_for_videos(context, conds, size[0])),
            ),
            places=kept.get(("places", size, x.device), lambda: self.place_tables(size, x.device)),
            enable_temporal_attention=transformer_options.get(TEMPORAL_ATTENTION, True),
            noise_only=VARIANCE_COLLECTOR not in transformer_options,
            hooks=with_cache(hooks, transformer_options, timestep, size[0]),
        )[..., :height, :width]
        return noise_of(output, x, transformer_options)


class LatteVideo(LatteModel):
    """What a MODEL socket carries for text-to-video."""

    transformer_class = LatteTransformer

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Check the text here, where the socket it came from is known."""
        out = super().extra_conds(**kwargs)
        text = kwargs.get("cross_attn")
        if text is not None:
            self.check_text(text, socket_of(kwargs))
            # as the transformer will get it, so that it is neither copied nor cast in every call
            dtype = getattr(self, "manual_cast_dtype", None) or self.get_dtype()
            text = text.to(kwargs.get("device", text.device), dtype)
            out["c_crossattn"] = TextCond(text, out[KEPT].cond)
        return out

    def check_text(self, text: Tensor, socket: str) -> None:
        """Refuse the output of another text encoder by name.

        Raises:
            IncompatibleInputsError: naming the socket, both widths and the node to use.
        """
        expected = self.diffusion_model.config.caption_channels
        if text.ndim == 3 and text.shape[2] == expected:
            return
        width = text.shape[-1]
        raise IncompatibleInputsError(
            f"The {socket} conditioning has width {width}, but this Latte model expects "
            f'{expected}.{guess_encoder(width)} Connect the output of "Latte Text Encode" with the '
            "T5 encoder that belongs to this model."
        )


class LatteConfig(LatteBase):
    """How ComfyUI's loaders recognise and build text-to-video models."""

    config_class = LatteT2VConfig
    model_class = LatteVideo
    unet_config = {"image_model": T2V_MODEL}
    memory_usage_factor = 0.45  # traced, with a fifth on top: benchmarks/memory.py

    def clip_target(self, state_dict: Mapping[str, Any] | None = None) -> Any:
        """Describe the text encoder of an all-in-one file; None when it holds none."""
        from ..text.clip import target_from_checkpoint

        return target_from_checkpoint(state_dict or {}, self.text_encoder_key_prefix[0])
