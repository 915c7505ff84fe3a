"""The little of ComfyUI that calls a model: conditions, layers that cast, attention, BaseModel.

Each piece keeps the contract of its namesake in ComfyUI 0.33 as far as the pack's models use it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..pack import load_pack
from .stand_in import make_module


class CondRegular:
    """A condition of which each video has its own row.

    Args:
        cond: a tensor, outermost the batch.
    """

    def __init__(self, cond: Any) -> None:
        self.cond = cond

    def _copy_with(self, cond: Any) -> Any:
        return type(self)(cond)

    def process_cond(self, batch_size: int, **_: Any) -> Any:
        """Repeat it for the rows of a batch."""
        count = -(-batch_size // self.cond.shape[0])
        return self._copy_with(self.cond.repeat(count, *[1] * (self.cond.ndim - 1))[:batch_size])

    def concat(self, others: Sequence[Any]) -> Any:
        """Stack it with those of other conditionings."""
        return torch.cat([self.cond, *(one.cond for one in others)])


class CondCrossAttn(CondRegular):
    """Text, of equal lengths here."""


class CondConstant(CondRegular):
    """Something that all rows share."""

    def process_cond(self, batch_size: int, **_: Any) -> Any:
        """Leave it alone."""
        return self._copy_with(self.cond)

    def concat(self, others: Sequence[Any]) -> Any:
        """Return the one there is."""
        return self.cond


class Casting:
    """Brings the weights of a layer to its input when they are used, and applies patches."""

    comfy_cast_weights = False
    weight: Any
    bias: Any
    weight_function: Sequence[Any] = ()
    bias_function: Sequence[Any] = ()

    def cast(self, given: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias as the input needs them."""
        made = [
            None if one is None else one.to(given.device, given.dtype, non_blocking=True)
            for one in (self.weight, self.bias)
        ]
        return made[0], made[1]  # type: ignore[return-value]


class CastLinear(Casting, nn.Linear):
    """A linear layer, whose weights may be elsewhere."""

    def forward(self, given: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        return functional.linear(given, *self.cast(given))


class CastConv(Casting, nn.Conv2d):
    """A convolution, whose weights may be elsewhere."""

    def forward(self, given: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D, h, w)."""
        return self._conv_forward(given, *self.cast(given))


class CastNorm(Casting, nn.LayerNorm):
    """A norm, whose weights may be elsewhere."""

    def forward(self, given: Tensor) -> Tensor:
        """(..., D) -> the same."""
        weight, bias = self.cast(given) if self.weight is not None else (None, None)
        return functional.layer_norm(given, self.normalized_shape, weight, bias, self.eps)


class CastEmbedding(Casting, nn.Embedding):
    """A table, which may be elsewhere."""

    def forward(self, given: Tensor) -> Tensor:
        """(...) -> (..., D)."""
        return functional.embedding(given, self.weight.to(given.device))


class Operations:
    """What makes the layers of models."""

    Linear, Conv2d, LayerNorm, Embedding = CastLinear, CastConv, CastNorm, CastEmbedding


def attention_pytorch(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **_: Any
) -> Tensor:
    """(B, L, N*d) three times -> (B, L, N*d)."""
    batch, _length, width = q.shape
    parts = (one.view(batch, -1, heads, width // heads).transpose(1, 2) for one in (q, k, v))
    if mask is not None and mask.ndim < 4:
        mask = mask.view(mask.shape[0] if mask.ndim == 3 else 1, 1, *mask.shape[-2:])
    out = functional.scaled_dot_product_attention(*parts, attn_mask=mask)
    return out.transpose(1, 2).reshape(batch, -1, width)


class BaseModel(nn.Module):
    """What a MODEL socket carries.

    Args:
        model_config: knows the transformer's settings.
        model_type: of the prediction.
        device: of the weights.
        unet_model: class of the transformer.
    """

    def __init__(
        self, model_config: Any, model_type: Any, device: Any = None, unet_model: Any = None
    ) -> None:
        super().__init__()
        self.model_config = model_config
        self.manual_cast_dtype = None
        self.current_patcher: Any = None
        settings = model_config.unet_config
        self.diffusion_model = unet_model(**settings, device=device, operations=Operations)
        self.diffusion_model.requires_grad_(False)
        self.diffusion_model.eval()

    def get_dtype(self) -> torch.dtype:
        """Return the type of the weights."""
        return self.diffusion_model.dtype

    def memory_required(self, shape: Any) -> float:
        """Return bytes that a call needs."""
        return 0.0

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Return the conditions of one conditioning."""
        text = kwargs.get("cross_attn")
        return {} if text is None else {"c_crossattn": CondCrossAttn(text)}

    def apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_crossattn: Tensor | None = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Call the transformer; the latents come scaled as it wants them."""
        dtype = self.get_dtype()
        if c_crossattn is not None:
            c_crossattn = c_crossattn.to(x.device, dtype)
        given = {
            name: one.to(x.device) if isinstance(one, Tensor) else one
            for name, one in kwargs.items()
        }
        options = dict(transformer_options or {})
        return self.diffusion_model(
            x.to(dtype), t.float(), context=c_crossattn, transformer_options=options, **given
        ).float()


class Base:
    """How loaders recognise a model.

    Args:
        unet_config: settings of the transformer.
    """

    def __init__(self, unet_config: dict[str, Any]) -> None:
        self.unet_config = dict(unet_config)


class Executor:
    """Calls a method behind wrappers, of which there are none."""

    @classmethod
    def new_class_executor(cls, method: Any, owner: Any, wrappers: Any) -> Any:
        """Return what `execute` is called on."""
        return SimpleNamespace(execute=method)


def modules() -> dict[str, ModuleType]:
    """Return what `sys.modules` has to hold for the pack's models to be imported."""
    leaves: dict[str, dict[str, Any]] = {
        "conds": {
            "CONDRegular": CondRegular,
            "CONDCrossAttn": CondCrossAttn,
            "CONDConstant": CondConstant,
        },
        "latent_formats": {"SD15": SimpleNamespace},
        "ldm.common_dit": {"pad_to_patch_size": pad_to_patch_size},
        "ldm.modules.attention": {
            "attention_pytorch": attention_pytorch,
            "optimized_attention": attention_pytorch,
        },
        "model_base": {"BaseModel": BaseModel, "ModelType": SimpleNamespace(EPS="eps")},
        "model_management": {
            "get_free_memory": lambda device: 1e12,
            "throw_exception_if_processing_interrupted": lambda: None,
        },
        "model_patcher": {"create_model_options_clone": copy_options},
        "ops": {"disable_weight_init": Operations, "manual_cast": Operations},
        "patcher_extension": {
            "WrapperExecutor": Executor,
            "WrappersMP": SimpleNamespace(DIFFUSION_MODEL="diffusion_model"),
            "get_all_wrappers": lambda kind, options: [],
        },
        "supported_models_base": {"BASE": Base},
    }
    made = {"comfy": ModuleType("comfy")}
    for name, values in leaves.items():
        path = "comfy"
        for part in name.split("."):
            owner, path = made[path], f"{path}.{part}"
            made.setdefault(path, ModuleType(path))
            setattr(owner, part, made[path])
        vars(made[path]).update(vars(make_module(path, values)))
    return made


def copy_options(options: dict[str, Any]) -> dict[str, Any]:
    """Copy options of a model, and the dicts in them."""
    return {name: dict(one) if isinstance(one, dict) else one for name, one in options.items()}


def pad_to_patch_size(videos: Tensor, sizes: Sequence[int]) -> Tensor:
    """Repeat the edges of (B, C, F, h, w) up to whole patches."""
    more = [-side % size for side, size in zip(videos.shape[2:], sizes, strict=True)]
    padding = [one for side in reversed(more) for one in (0, side)]
    return functional.pad(videos, padding, mode="circular")


@contextmanager
def host_modules() -> Iterator[Callable[[str], Any]]:
    """Yield what imports modules of `nodes.host` over this ComfyUI, and forget them afterwards."""
    name = f"{load_pack().__name__}.nodes.host"
    with pytest.MonkeyPatch.context() as patch:
        for path, module in modules().items():
            patch.setitem(sys.modules, path, module)
        before = set(sys.modules)
        try:
            yield lambda part: import_module(f"{name}.{part}")
        finally:
            for path in set(sys.modules) - before:
                if path.startswith(f"{name}."):
                    del sys.modules[path]


def conditions(model: Any, kinds: Sequence[dict[str, Any]], rows: int) -> dict[str, Any]:
    """Return what a batch of conditionings shares in a run, made as ComfyUI's sampling does.

    Args:
        model: a `BaseModel`.
        kinds: what `extra_conds` is told of each conditioning.
        rows: of the latents of one.
    """
    found = [model.extra_conds(**one) for one in kinds]
    return {
        name: [conds[name].process_cond(batch_size=rows) for conds in found] for name in found[0]
    }


def joined(parts: dict[str, Any]) -> dict[str, Any]:
    """Return the conditions of one call, stacked anew as ComfyUI does in every call."""
    return {name: first.concat(rest) for name, (first, *rest) in parts.items()}
