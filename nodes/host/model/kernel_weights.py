"""Which of ComfyUI's layers let a fused kernel read their weights, and how it comes to them.

ComfyUI may cast, patch, fetch or unpack weights inside a layer's call. A kernel reads those alone
that need none of it: whole, plain, in the type and on the device of the tokens. Weights of dynamic
memory arrive through the core's own lending, and are given back through it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import comfy.ops
from torch import Tensor, nn

from ....latte_core.kernels.choice import is_plain_linear

KINDS = (comfy.ops.disable_weight_init.Linear, comfy.ops.manual_cast.Linear)
FUNCTIONS = ("weight_function", "bias_function", "weight_lowvram_function", "bias_lowvram_function")

Lent = AbstractContextManager["tuple[Tensor, Tensor] | None"]


def host_weights(layer: nn.Module, tokens: Tensor) -> Lent:
    """Lend weight and bias of a layer about to be applied to tokens, or None."""
    given: Any = layer
    if not is_plain_linear(layer, KINDS) or any(getattr(given, name, None) for name in FUNCTIONS):
        return nullcontext(None)
    if any(one.dtype != tokens.dtype for one in (given.weight, given.bias)):
        return nullcontext(None)
    if not hasattr(given, "_v"):  # which layers under dynamic memory have
        is_here = given.weight.device == given.bias.device == tokens.device
        return nullcontext((given.weight, given.bias) if is_here else None)
    lend = getattr(comfy.ops, "CastBiasWeightContext", None)
    return nullcontext(None) if lend is None else lend(layer, tokens, offloadable=True)
