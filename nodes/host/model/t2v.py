"""Text-to-video Latte as a native ComfyUI model: config class, BaseModel and hooked transformer.

Latents arrive as frames-as-batch (T, 4, h, w) or as videos (B, 4, T, h, w); see `layout.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from comfy import latent_formats, model_base, supported_models_base
from torch import Tensor

from ....latte_core.config.t2v import LatteT2VConfig
from ....latte_core.errors import IncompatibleInputsError
from ....latte_core.kernels.choice import KernelSet
from ....latte_core.model.t2v.transformer import LatteT2V
from ..base.conditions import check_kind
from ..base.detection import (
    CONFIG_TENSOR,
    NAMES_SETTING,
    T2V_MODEL,
    UNUSED_TENSORS,
    Config,
    can_guess,
    check_complete,
    config_from_settings,
    config_to_tensor,
)
from ..base.layout import fold_frames, one_for_all, one_per_video, pad_to_patch, rows_for_videos
from .conds import CONTEXT, KEPT, Kept, KeptCond, TextCond, kept_of
from .feed_forward_rows import fitting_feed_forward
from .hooks import (
    TEMPORAL_ATTENTION,
    VARIANCE_COLLECTOR,
    make_hooks,
    noise_of,
    run_with_wrappers,
    with_cache,
)
from .kernel_weights import host_weights

STOCK_SAMPLER = "the sampler"  # where no node of ours can be named


class LatteTransformer(LatteT2V):
    """LatteT2V with ComfyUI's calling convention and its patches, wrappers and attention.

    A subclass, not a wrapper: the names of the weights stay the released ones.
    """

    def __init__(
        self, *, dtype: Any = None, device: Any = None, operations: Any, **settings: Any
    ) -> None:
        config = config_from_settings(settings, LatteT2VConfig)
        super().__init__(config, operations=operations, dtype=dtype, device=device)
        self.kernels = KernelSet(weights_of=host_weights)
        self.dtype = dtype

    def forward(  # type: ignore[override]  # ComfyUI's convention, see model_base
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(T, 4, h, w) or (B, 4, T, h, w) -> noise of the same shape; `control` is ignored."""
        options = {} if transformer_options is None else transformer_options
        return run_with_wrappers(self, x, timestep, context, options, **kwargs)

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
        output = super().forward(
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


class LatteModel(model_base.BaseModel):
    """What all Lattes share of calling the model."""

    def apply_model(self, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Call the model, with feed-forward layers in parts where memory is short."""
        kept = kept_of(kwargs, self.current_patcher)
        if kept is not None:
            kwargs[KEPT] = kept
        with fitting_feed_forward(self, x):
            return super().apply_model(x, t, *args, **kwargs)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Add what the calls of the run share."""
        return {**super().extra_conds(**kwargs), KEPT: KeptCond(Kept())}


class LatteVideo(LatteModel):
    """What a MODEL socket carries: noise prediction on the plain linear beta schedule."""

    def __init__(self, model_config: Any, device: Any = None) -> None:
        super().__init__(
            model_config, model_base.ModelType.EPS, device=device, unet_model=LatteTransformer
        )

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Check the text here, where the socket it came from is known."""
        socket = kwargs.get("prompt_type", "conditioning")
        check_kind(self.diffusion_model.config, kwargs, socket, STOCK_SAMPLER)
        out = super().extra_conds(**kwargs)
        text = kwargs.get("cross_attn")
        if text is not None:
            self.check_text(text, socket)
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
        guess = " It looks like CLIP." if width in (768, 1024, 1280, 2048) else ""
        raise IncompatibleInputsError(
            f"The {socket} conditioning has width {width}, but this Latte model expects "
            f'{expected}.{guess} Connect the output of "Latte Text Encode" with the T5 encoder '
            "that belongs to this model."
        )


class LatteBase(supported_models_base.BASE):
    """What all Lattes share of how ComfyUI's loaders recognise, build, load and save them."""

    unet_extra_config: dict[str, Any] = {}
    required_keys: dict[str, Any] = {}
    # ComfyUI's "sqrt_linear" is the plain linear beta schedule; its "linear" interpolates roots.
    sampling_settings = {
        "beta_schedule": "sqrt_linear",
        "linear_start": 1e-4,
        "linear_end": 0.02,
        "timesteps": 1000,
    }
    latent_format = latent_formats.SD15
    memory_usage_factor = 0.5  # traced, with a fifth on top: benchmarks/memory.py
    supported_inference_dtypes = [torch.bfloat16, torch.float16, torch.float32]
    vae_key_prefix = ["vae.", "first_stage_model."]
    text_encoder_key_prefix = ["text_encoders."]

    def process_unet_state_dict(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Drop what carries nothing and refuse an incomplete file.

        Raises:
            WeightMismatchError: if weights are missing or have another size.
        """
        ignored = (CONFIG_TENSOR, *UNUSED_TENSORS)
        kept = {name: value for name, value in state_dict.items() if name not in ignored}
        check_complete(kept, self.transformer_config())
        return kept

    def process_unet_state_dict_for_saving(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Add the config where names and sizes alone would not give it back."""
        config, names = self.transformer_config(), self.class_names()
        if not can_guess(config, state_dict, names):
            state_dict = {**state_dict, CONFIG_TENSOR: config_to_tensor(config, names)}
        return super().process_unet_state_dict_for_saving(state_dict)

    def transformer_config(self) -> Config:
        """Return the transformer's config out of `unet_config`."""
        raise NotImplementedError

    def class_names(self) -> list[str]:
        """Return the names of the model's classes, in the order of labels; empty without any."""
        return list(self.unet_config.get(NAMES_SETTING) or [])


class LatteConfig(LatteBase):
    """How ComfyUI's loaders recognise and build text-to-video models."""

    unet_config = {"image_model": T2V_MODEL}
    memory_usage_factor = 0.45  # as above

    def get_model(self, state_dict: Any, prefix: str = "", device: Any = None) -> LatteVideo:
        """Build the model; weights follow through `load_model_weights`."""
        return LatteVideo(self, device=device)

    def clip_target(self, state_dict: Mapping[str, Any] | None = None) -> Any:
        """Describe the text encoder of an all-in-one file; None when it holds none."""
        from ..text.clip import target_from_checkpoint

        return target_from_checkpoint(state_dict or {}, self.text_encoder_key_prefix[0])

    def transformer_config(self) -> LatteT2VConfig:
        """Return the transformer's config out of `unet_config`."""
        return config_from_settings(self.unet_config, LatteT2VConfig)
