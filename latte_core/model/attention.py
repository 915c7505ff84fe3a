"""The attention call, and the hooks by which a host replaces or watches parts of a block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.backends import Backends
from ..kernels.choice import KernelSet
from .base import LayerMaker
from .eight_bit import Tokens, Update, shared_rows, update_of
from .short_attention import attend_with_products, gains_from_products

TEMPORAL = "temporal"  # kind of attention, among "spatial" and "cross"
MAX_HEADS = 65535  # of one attention call: CUDA kernels count heads on an axis of this length


class AttentionFn(Protocol):
    """Softmax attention with scale 1/sqrt(head width) on tokens with their heads side by side.

    `q` is (B, N, D), `k` and `v` are (B, M, D), `mask` is None or an additive bias that broadcasts
    to (B, N, M); the result is (B, N, D). Keywords `kind` ("spatial", "cross" or "temporal") and
    `block_index` say who calls. One with a true attribute `leaves_frames` computes what torch's
    does and watches nothing: the model attends across frames in its own way then, which spares two
    copies of all tokens.
    """

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **kwargs: Any
    ) -> Tensor: ...


BlockFn = Callable[[Tensor, Tensor, Tensor], Tensor]
"""One pair of blocks: (hidden (B, F*S, D), context (B, L, D), modulation (B, 6, D)) -> hidden.

The modulation has a single row where one timestep was given for all videos.
"""

RunBlock = Callable[[int, BlockFn, Tensor, Tensor, Tensor], Tensor]
"""Runs, skips or replaces a pair: (index, fn, hidden, context, modulation) -> hidden."""

AttentionOutputHook = Callable[[int, int, Tensor], Tensor]
"""(index, heads, spatial self-attention output (B*F, S, D) before its projection) -> the same."""


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    *,
    backends: Backends | None = None,
    across_frames: bool = False,
) -> Tensor:
    """Attend with torch's fused kernel: (B, rows, N, D/N) each -> (B, rows of `q`, D).

    Args:
        q, k, v, bias: queries, keys, values and what is added to the scores.
        backends: of the model, which knows the kernels that failed.
        across_frames: whether the rows are the frames at a place.
    """
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # B N rows D/N
    call = partial((backends or Backends()).attend, bias=bias, across_frames=across_frames)
    if bias is None and gains_from_products(q, k, v):
        attended = attend_with_products(call, q, k, v)
    else:
        attended = call(q, k, v)
    return attended.transpose(1, 2).flatten(2)


def attend_across_frames(
    q: Tensor, k: Tensor, v: Tensor, num_frames: int, backends: Backends | None = None
) -> Tensor:
    """Attend across the frames at each place, in the order the tokens have.

    A place and a head are one axis to the kernel, so that it reads the tokens where they are.

    Args:
        q, k, v: (B, F*S, N, D/N), frames outermost.
        num_frames: F.
        backends: of the model.

    Returns:
        (B, F*S, D).
    """
    call = partial(attend, backends=backends, across_frames=True)
    batch, rows, heads, width = q.shape
    size = (batch, num_frames, rows // num_frames * heads, width)
    q, k, v = (t.view(size) for t in (q, k, v))  # B F S*N D/N
    step = MAX_HEADS // heads * heads
    if size[2] <= step:
        return call(q, k, v).view(batch, rows, -1)
    cuts = [slice(start, start + step) for start in range(0, size[2], step)]
    parts = [call(q[:, :, cut], k[:, :, cut], v[:, :, cut]) for cut in cuts]
    return torch.cat(parts, dim=2).view(batch, rows, -1)


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """Return (B, rows, D) as (B, rows, N, D/N), a view."""
    return tokens.view(*tokens.shape[:2], heads, -1)


def scaled_dot_product(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    *,
    kind: str = "",
    backends: Backends | None = None,
    **_: Any,
) -> Tensor:
    """Attend with torch's fused kernel; the default `AttentionFn`."""
    q, k, v = (split_heads(t, heads) for t in (q, k, v))
    bias = None if mask is None else mask.unsqueeze(1)
    return attend(q, k, v, bias, backends=backends, across_frames=kind == TEMPORAL)


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockHooks:
    """What a host puts in place of the defaults for one call.

    Args:
        attention: does every attention of the model, except across a single frame, where every
            token attends to itself alone.
        run_block: calls each pair of blocks; None calls them directly.
        attn_output_hook: sees and may change the output of spatial self-attention.
        text_in_blocks: each block makes its own modulation and its own keys and values of the
            text, where all of its weights are at hand (training that gathers or recomputes a block
            at a time).
    """

    attention: AttentionFn = scaled_dot_product
    run_block: RunBlock | None = None
    attn_output_hook: AttentionOutputHook | None = None
    text_in_blocks: bool = False

    @property
    def is_default_attention(self) -> bool:
        """Whether attention is torch's own, which needs no regrouped tokens."""
        return self.attention is scaled_dot_product

    @property
    def leaves_frames(self) -> bool:
        """Whether the model attends across frames in its own way."""
        return self.is_default_attention or getattr(self.attention, "leaves_frames", False)

    def attention_with(self, kernels: KernelSet) -> AttentionFn:
        """Return what attends; torch's own attention knows what failed before on this model."""
        if self.is_default_attention:
            return partial(scaled_dot_product, backends=kernels.backends)
        return self.attention


DEFAULT_HOOKS = BlockHooks()


class Attention(nn.Module):
    """Projections of a multi-head attention under their released names.

    Args:
        width: token width D; heads and attention itself belong to the caller.
        make: makes the layers.
    """

    to_q: nn.Linear
    to_k: nn.Linear
    to_v: nn.Linear
    to_qkv: FusedRows | None

    def __init__(self, width: int, make: LayerMaker) -> None:
        super().__init__()
        self.to_q = make.linear(width, width)
        self.to_k = make.linear(width, width)
        self.to_v = make.linear(width, width)
        self.to_out = nn.ModuleList([make.linear(width, width)])
        self.to_qkv = None  # in the place of the first three after `fuse_qkv`

    @property
    def readers(self) -> tuple[nn.Module, ...]:
        """The layers that read the tokens of self-attention."""
        return (self.to_q, self.to_k, self.to_v) if self.to_qkv is None else (self.to_qkv,)

    def project(self, tokens: Tokens, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of tokens (B, rows, D), each (B, rows, N, D/N)."""
        tokens = shared_rows(self.readers, tokens)
        if self.to_qkv is not None:
            joined: Tensor = self.to_qkv(tokens)
            q, k, v = joined.view(*tokens.shape[:2], heads, 3, -1).unbind(3)
            return q, k, v
        q, k, v = (layer(tokens) for layer in (self.to_q, self.to_k, self.to_v))
        return split_heads(q, heads), split_heads(k, heads), split_heads(v, heads)

    def project_values(self, tokens: Tokens) -> Tensor:
        """Return the values of tokens (B, rows, D), as they are."""
        return self.to_v(tokens) if self.to_qkv is None else self.to_qkv.project_values(tokens)

    def project_out(self, hidden: Tensor) -> Tensor:
        """Apply the output projection."""
        return self.to_out[0](hidden)

    def update_of(self, hidden: Tensor, kernels: KernelSet) -> Update:
        """Apply the output projection, for a sum."""
        return update_of(self.to_out[0], hidden, kernels)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Let a fused layer be loaded under the released names."""
        if self.to_qkv is not None:
            self.to_qkv.join(state_dict, prefix)
        super()._load_from_state_dict(  # pyright: ignore[reportUnknownMemberType]
            state_dict, prefix, *args, **kwargs
        )


class FusedRows(nn.Module):
    """Queries, keys and values in one linear layer; saved and loaded as the three layers they are.

    Rows are ordered by head, then query, key and value, then channel, because then a place and a
    head of the output are one axis of constant stride; see `attend_across_frames`. What a layer is
    made of, a class beside this one says: tensors of 3 * D rows each, and their product.
    """

    NAMES = ("to_q", "to_k", "to_v")
    TENSORS: tuple[str, ...]
    heads: int

    def product(self, tokens: Any, *tensors: Tensor) -> Tensor:
        """Apply the rows that are in `tensors`, of the kinds in `TENSORS`: (..., D) -> (..., R)."""
        raise NotImplementedError

    def single(self) -> nn.Module:
        """Return the layer that one of the three is apart, with its tensors still to be set."""
        raise NotImplementedError

    def take(self, layers: tuple[nn.Module, ...]) -> None:
        """Take up a copy of the tensors of to_q, to_k and to_v; `apart` undoes it."""
        for name in self.TENSORS:
            parts: list[Tensor] = [getattr(layer, name) for layer in layers]
            joined = self.interleave([one.detach() for one in parts])
            if isinstance(parts[0], nn.Parameter):
                joined = nn.Parameter(joined, requires_grad=parts[0].requires_grad)
            setattr(self, name, joined)
        self.train(layers[0].training)

    def interleave(self, parts: list[Tensor]) -> Tensor:
        """Join three (D, ...) into (3 * D, ...)."""
        by_head = [part.view(self.heads, -1, *part.shape[1:]) for part in parts]
        return torch.stack(by_head, dim=1).flatten(0, 2)

    def separate(self, joined: Tensor) -> tuple[Tensor, ...]:
        """Undo `interleave`; each part has memory of its own."""
        return tuple(part.flatten(0, 1) for part in self.parts(joined))

    def by_head(self, joined: Tensor) -> Tensor:
        """Return (3 * D, ...) as (N, 3, D/N, ...), a view."""
        return joined.view(self.heads, 3, -1, *joined.shape[1:])

    def parts(self, joined: Tensor) -> list[Tensor]:
        """Return what of (3 * D, ...) belongs to each of the three, as views (N, D/N, ...)."""
        return list(self.by_head(joined).unbind(1))

    def project_values(self, tokens: Tokens) -> Tensor:
        """Return the values of tokens (..., D) alone."""
        whole: list[Tensor] = [getattr(self, name) for name in self.TENSORS]
        return self.product(tokens, *(self.by_head(one)[:, 2].flatten(0, 1) for one in whole))

    def apart(self) -> dict[str, nn.Module]:
        """Return the three layers by name, to the last bit of their tensors."""
        layers = {name: self.single().train(self.training) for name in self.NAMES}
        for name in self.TENSORS:
            whole: Tensor = getattr(self, name)
            for layer, part in zip(layers.values(), self.separate(whole), strict=True):
                if isinstance(whole, nn.Parameter):
                    part = nn.Parameter(part, requires_grad=whole.requires_grad)
                setattr(layer, name, part)
        return layers

    def join(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Put the fused tensors into a state dict in the place of the released ones."""
        for name in self.TENSORS:
            keys = [f"{prefix}{layer}.{name}" for layer in self.NAMES]
            if all(key in state_dict for key in keys):
                parts = [state_dict.pop(key) for key in keys]
                state_dict[f"{prefix}to_qkv.{name}"] = self.interleave(parts)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Write the released names in the place of this layer's."""
        start = prefix.removesuffix("to_qkv.")
        for name in self.TENSORS:
            value: Tensor = getattr(self, name)
            parts = self.separate(value if keep_vars else value.detach())
            for layer, part in zip(self.NAMES, parts, strict=True):
                destination[f"{start}{layer}.{name}"] = part


class FusedLinear(FusedRows, nn.Linear):
    """A weight and a bias for queries, keys and values.

    Args:
        layers: to_q, to_k and to_v.
        heads: attention heads N.
    """

    TENSORS = ("weight", "bias")

    def __init__(self, layers: tuple[nn.Linear, ...], heads: int) -> None:
        width = layers[0].in_features
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            width, 3 * width, device="meta"
        )
        self.heads = heads
        self.take(layers)

    def product(self, tokens: Tensor, *tensors: Tensor) -> Tensor:
        """Multiply by a weight and add a bias."""
        return F.linear(tokens, *tensors)

    def single(self) -> nn.Linear:
        """Return a linear layer without memory."""
        return nn.Linear(self.in_features, self.in_features, device="meta")
