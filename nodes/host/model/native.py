"""What all Lattes share as native ComfyUI models: calling convention, BaseModel and config class.

Latents arrive as frames-as-batch (T, 4, h, w) or as videos (B, 4, T, h, w); see `layout.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from comfy import latent_formats, model_base, supported_models_base
from torch import Tensor, nn

from ....latte_core.kernels.choice import KernelSet
from ..base.conditions import check_kind
from ..base.detection import (
    CONFIG_TENSOR,
    NAMES_SETTING,
    UNUSED_TENSORS,
    Config,
    can_guess,
    check_complete,
    config_from_settings,
    config_to_tensor,
)
from .conds import KEPT, Kept, KeptCond, kept_of
from .feed_forward_rows import fitting_feed_forward
from .hooks import run_with_wrappers
from .kernel_weights import host_weights

STOCK_SAMPLER = "the sampler"  # where no node of ours can be named


class HostTransformer(nn.Module):
    """ComfyUI's calling convention, for a class that derives from this and from a transformer.

    So it needs no wrapper, and the names of the weights stay the released ones. The class adds
    `predict`, which is called behind the wrappers of a run.
    """

    config_class: type[Config]

    def __init__(
        self, *, dtype: Any = None, device: Any = None, operations: Any, **settings: Any
    ) -> None:
        config = config_from_settings(settings, self.config_class)
        super().__init__(config, operations=operations, dtype=dtype, device=device)
        self.kernels = KernelSet(weights_of=host_weights)
        self.dtype = dtype

    def forward(
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


class LatteModel(model_base.BaseModel):
    """What a MODEL socket carries: noise prediction on the plain linear beta schedule."""

    transformer_class: type[HostTransformer]

    def __init__(self, model_config: Any, device: Any = None) -> None:
        super().__init__(
            model_config,
            model_base.ModelType.EPS,
            device=device,
            unet_model=self.transformer_class,
        )

    def apply_model(self, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Call the model, with feed-forward layers in parts where memory is short."""
        kept = kept_of(kwargs, self.current_patcher)
        if kept is not None:
            kwargs[KEPT] = kept
        with fitting_feed_forward(self, x):
            return super().apply_model(x, t, *args, **kwargs)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Refuse what the model does not read; add what the calls of the run share."""
        check_kind(self.diffusion_model.config, kwargs, socket_of(kwargs), STOCK_SAMPLER)
        return {**super().extra_conds(**kwargs), KEPT: KeptCond(Kept())}


def socket_of(given: dict[str, Any]) -> str:
    """Return the input that a conditioning came from, as ComfyUI tells `extra_conds`."""
    return given.get("prompt_type", "conditioning")


class LatteBase(supported_models_base.BASE):
    """How ComfyUI's loaders recognise, build, load and save Lattes.

    A class of its own for each kind says what it is in `unet_config` and how much memory it needs.
    """

    config_class: type[Config]
    model_class: type[LatteModel]
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
    supported_inference_dtypes = [torch.bfloat16, torch.float16, torch.float32]
    vae_key_prefix = ["vae.", "first_stage_model."]
    text_encoder_key_prefix = ["text_encoders."]

    def get_model(self, state_dict: Any, prefix: str = "", device: Any = None) -> LatteModel:
        """Build the model; weights follow through `load_model_weights`."""
        return self.model_class(self, device=device)

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
        return config_from_settings(self.unet_config, self.config_class)

    def class_names(self) -> list[str]:
        """Return the names of the model's classes, in the order of labels; empty without any."""
        return list(self.unet_config.get(NAMES_SETTING) or [])
