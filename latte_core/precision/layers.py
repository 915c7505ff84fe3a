"""Which layers of a model are quantised: the wide products, where nearly all the time goes.

Patch embedding, timestep network, modulation, text projection and the last layer stay as they are:
together a few percent of the work, and the ones through which small errors reach every token.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

MULTIPLE = 16  # eight-bit products take rows and columns in multiples of this
LAYERS = re.compile(
    # text-to-video transformer
    r"(temporal_)?transformer_blocks\.\d+"
    r"\.(attn[12]\.(to_([qkv]|qkv)|to_out\.0)|ff\.net\.(0\.proj|2))"
    # class-conditional and unconditional transformer
    r"|blocks\.\d+\.((attn|attn_temp)\.(qkv|proj)|mlp\.fc[12])"
    # T5 encoder
    r"|encoder\.block\.\d+\.layer\.\d+\.(SelfAttention\.[qkvo]|DenseReluDense\.w[io](_[01])?)"
)


def is_target(name: str, rows: int, columns: int) -> bool:
    """Return whether a layer of this name, with a weight (rows, columns), is quantised."""
    fits = rows % MULTIPLE == 0 and columns % MULTIPLE == 0
    return fits and LAYERS.fullmatch(name) is not None


def layer_dtype(model: nn.Module) -> torch.dtype:
    """Return the type of a model's layers; its tables are float32 whatever that is."""
    return next(one.weight.dtype for one in model.modules() if isinstance(one, nn.Linear))


def quantised_name(module: nn.Module) -> str | None:
    """Return the name of the format a layer is stored in, or None for an ordinary layer."""
    name: Any = getattr(module, "quantised_as", None)
    return name


def is_quantised(model: nn.Module) -> bool:
    """Return whether any layer of a model is stored in eight or four bits."""
    return stored_format(model) is not None


def stored_format(model: nn.Module) -> str | None:
    """Return the name of the format that layers of a model are stored in, or None."""
    return next((name for one in model.modules() if (name := quantised_name(one))), None)
