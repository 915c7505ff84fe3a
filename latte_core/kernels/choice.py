"""When a fused kernel takes the place of torch's own operators.

A `KernelSet` belongs to a model. What it remembers is which way was faster on a device for a type
and a shape: a fact that runs share, not the state of one.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from ..devices import is_cuda, is_out_of_memory
from ..errors import MissingDependencyError
from ..files import cache_folder
from . import ops
from .backends import Backends
from .store import FILE_NAME, ChoiceFile, ChoiceStore, choice_key
from .timing import Timer, device_time, fastest, is_equal, sample

MAX_WIDTH = 8192  # of tokens: a norm's program keeps whole rows in registers
MAX_HEAD_WIDTH = 128
MAX_FRAMES = 32
OLDEST = (8, 0)  # compute capability; Triton's own floor is near, and bfloat16 starts here
FLOATS = (torch.float32, torch.float16, torch.bfloat16)

P = ParamSpec("P")
R = TypeVar("R")

WeightsOf = Callable[[nn.Module, Tensor], AbstractContextManager[tuple[Tensor, Tensor] | None]]
"""Lends weight and bias of a linear layer about to be applied to tokens, or None."""


class KernelUse(Enum):
    """When kernels are used."""

    AUTO = "auto"  # on a GPU with Triton, without gradients, where they prove to be faster
    FIXED = "fixed"  # there too, but by rule: every process computes the same bits
    ALWAYS = "always"  # wherever there are no gradients: for meta tensors and the interpreter
    NEVER = "never"


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel(Generic[P, R]):
    """Kernels for one task.

    Args:
        name: of the task.
        ways: operators that do the task, the most modest first.
        fits: whether they can, for the arguments of a call.
        fixed: which way is taken where nothing is timed; -1 for torch's.
    """

    name: str
    ways: tuple[Callable[P, R], ...]
    fits: Callable[P, bool]
    fixed: int = 0


class KernelSet:
    """Chooses between torch and fused kernels, call by call, and remembers the choices.

    Args:
        use: when kernels are used at all.
        timer: measures a call on the device of its arguments.
        weights_of: lends kernels the weights of a layer; a host has its own way to them.
        store: keeps what was chosen; None is a file in the user's cache folder, for GPUs.
    """

    def __init__(
        self,
        use: KernelUse = KernelUse.AUTO,
        timer: Timer = device_time,
        weights_of: WeightsOf | None = None,
        store: ChoiceStore | None = None,
    ) -> None:
        self.use = use
        self.timer = timer
        self.weights_of = weights_of or own_weights
        self.store = store
        self.backends = Backends()
        self.choices: dict[Hashable, int] = {}
        self.is_able: dict[torch.device, bool] = {}

    def is_active(self, tokens: Tensor) -> bool:
        """Whether kernels may be used on tokens: never with gradients, which they do not have."""
        if self.use is KernelUse.NEVER or torch.is_grad_enabled():
            return False
        if self.use is KernelUse.ALWAYS:
            return True
        # a compiler fuses by itself, and nothing can be timed while it looks on
        return tokens.is_cuda and not torch.compiler.is_compiling() and self._can_run(tokens.device)

    def run(
        self, kernel: Kernel[P, R], plain: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Do a task by the fastest way that fits.

        The first call of a device, type and shape tries all ways and times them, unless the choice
        is known from an earlier process, or fixed.

        Args:
            kernel: what may be used.
            plain: does the task with torch's own operators.
            args: the tokens, then whatever the task needs.
        """
        tokens: Any = args[0]
        if not self.is_active(tokens) or not kernel.fits(*args, **kwargs):
            return plain(*args, **kwargs)
        if self.use is KernelUse.ALWAYS:
            return kernel.ways[0](*args, **kwargs)
        key = (kernel.name, tokens.device, *map(key_of, args))
        choice = self.choices.get(key)
        if choice is None:
            if tokens.is_cuda and torch.cuda.is_current_stream_capturing():
                return plain(*args, **kwargs)
            calls = [partial(way, *args, **kwargs) for way in (plain, *kernel.ways)]
            choice = self.choices[key] = self._choose(kernel, calls, args)
        way = plain if choice < 0 else kernel.ways[choice]
        return way(*args, **kwargs)

    def _choose(
        self, kernel: Kernel[Any, Any], calls: list[Callable[[], Any]], args: tuple[Any, ...]
    ) -> int:
        """Return the place of the kernel to use; -1 for torch, also where none can be built.

        Args:
            kernel: what may be used.
            calls: of torch's own operators, then of every way of the kernel.
            args: of the task.
        """
        tokens: Tensor = args[0]
        expected = sample(calls[0]())  # its errors are torch's own
        try:
            with ops.on_device_of(tokens):
                return self._decide(kernel, calls, expected, args)
        except ops.build_errors() as error:
            if is_out_of_memory(error):
                raise
            self.is_able[tokens.device] = False
            warnings.warn(
                f"Fused kernels could not be built ({type(error).__name__}: {error}), so torch's "
                "own operators are used. Triton needs a C compiler and Python's headers; without "
                "them nothing is wrong but the speed.",
                stacklevel=2,
            )
            return -1

    def _decide(
        self,
        kernel: Kernel[Any, Any],
        calls: list[Callable[[], Any]],
        expected: list[Tensor],
        args: tuple[Any, ...],
    ) -> int:
        """Return the fixed choice, else the known one, else the fastest, which is kept then."""

        def agrees(choice: int) -> bool:
            return choice < 0 or is_equal(calls[choice + 1], expected)

        if self.use is KernelUse.FIXED:
            return kernel.fixed if agrees(kernel.fixed) else -1
        store = self.store_for(args[0].device)
        if store is None:
            return fastest(calls[0], calls[1:], expected, self.timer)
        name = choice_key(kernel.name, args[0], args)
        known = store.load(name)
        if known is not None and -1 <= known < len(kernel.ways) and agrees(known):
            return known
        found = fastest(calls[0], calls[1:], expected, self.timer)
        store.save(name, found)
        return found

    def store_for(self, device: torch.device) -> ChoiceStore | None:
        """Return what keeps choices for a device; None on CPUs without a store of their own."""
        if self.store is None and is_cuda(device):
            self.store = ChoiceFile(cache_folder(os.environ) / FILE_NAME)
        return self.store

    def _can_run(self, device: torch.device) -> bool:
        """Whether Triton imports and knows a device, found out once."""
        if device not in self.is_able:
            is_known = torch.cuda.get_device_capability(device) >= OLDEST
            self.is_able[device] = is_known and has_triton()
        return self.is_able[device]


def has_triton() -> bool:
    """Whether Triton imports; one that is installed and does not is told."""
    try:
        ops.programs()
    except MissingDependencyError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and cause.name == "triton":
            return False
        warnings.warn(
            f"Triton is installed but does not import ({type(cause).__name__}: {cause}). Torch's "
            "own operators are used: nothing is wrong but the speed. Install a Triton that is made "
            "for this version of torch, or remove it.",
            stacklevel=2,
        )
        return False
    return True


def key_of(value: Any) -> Hashable:
    """Return what a choice depends on: type, shape and layout of a tensor, other values as such."""
    if isinstance(value, Tensor):
        return value.dtype, value.shape, value.stride()
    return value


def is_like(tokens: Tensor, *others: Tensor | None) -> bool:
    """Whether tensors have the device and type of tokens, a type that kernels compute with."""
    given = [one for one in others if one is not None]
    is_same = all(one.dtype == tokens.dtype and one.device == tokens.device for one in given)
    return is_same and tokens.dtype in FLOATS


def fits_norm(hidden: Tensor, *rows: Tensor | None) -> bool:
    """Whether a norm or sum of tokens with rows of modulation is one that the program knows."""
    given = [one for one in rows if one is not None]
    single = (1,) * (hidden.ndim - 2)  # one row serves all tokens of a video
    return (
        is_like(hidden, *given)
        and hidden.ndim > 2
        and hidden.is_contiguous()
        and 0 < hidden.shape[-1] <= MAX_WIDTH
        and hidden.numel() > 0
        and all(
            one.shape[0] in (1, hidden.shape[0])
            and one.shape[1:] == (*single, hidden.shape[-1])
            and one.stride(-1) == 1
            for one in given
        )
    )


def fits_modulated_norm(hidden: Tensor, shift: Tensor, factor: Tensor, eps: float) -> bool:
    """Whether `modulated_norm` takes these."""
    return fits_norm(hidden, shift, factor)


def fits_gated_sum(hidden: Tensor, update: Tensor, gate: Tensor | None) -> bool:
    """Whether `gated_sum` takes these."""
    is_pair = update.shape == hidden.shape and update.is_contiguous() and is_like(hidden, update)
    return is_pair and fits_norm(hidden, gate)


def fits_gated_sum_norm(
    hidden: Tensor, update: Tensor, gate: Tensor | None, shift: Tensor, factor: Tensor, eps: float
) -> bool:
    """Whether `gated_sum_norm` takes these."""
    return fits_gated_sum(hidden, update, gate) and fits_norm(hidden, shift, factor)


def fits_linear_gelu(tokens: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether `linear_gelu` takes these."""
    return (
        is_like(tokens, weight, bias)
        and tokens.numel() > 0
        and tokens.is_contiguous()
        and weight.is_contiguous()
        and bias.is_contiguous()
    )


def fits_frames(q: Tensor, k: Tensor, v: Tensor, num_frames: int) -> bool:
    """Whether `attend_across_frames` takes these."""
    return (
        is_like(q, k, v)
        and q.shape == k.shape == v.shape
        and q.numel() > 0
        and q.stride(3) == k.stride(3) == v.stride(3) == 1
        and can_span_frames(num_frames, q.shape[3])
    )


def can_span_frames(num_frames: int, head_width: int) -> bool:
    """Whether `attend_across_frames` has room for clips of this length and heads of this width."""
    return num_frames <= MAX_FRAMES and head_width <= MAX_HEAD_WIDTH


def is_plain_linear(layer: Any, kinds: tuple[type[nn.Module], ...] = (nn.Linear,)) -> bool:
    """Whether a layer is of a kind with a bias and with plain weights, watched by nobody.

    Layers that a host made, or that have an adapter, may cast, patch or fetch their weights when
    they are called, so kernels that read weights leave those alone.

    Args:
        layer: any.
        kinds: classes whose call is a product with `weight` and `bias` and no more.
    """
    if type(layer) not in kinds:
        return False
    is_watched = layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer)
    if is_watched or layer.weight is None or layer.bias is None:
        return False
    return all(type(one.data) is Tensor for one in (layer.weight, layer.bias))


def own_weights(
    layer: nn.Module, tokens: Tensor
) -> AbstractContextManager[tuple[Tensor, Tensor] | None]:
    """Lend the weights of a plain layer of torch; the usual `WeightsOf`."""
    given: Any = layer
    return nullcontext((given.weight, given.bias) if is_plain_linear(layer) else None)


MODULATED_NORM = Kernel(name="norm", ways=(ops.MODULATED_NORM,), fits=fits_modulated_norm)
GATED_SUM = Kernel(name="sum", ways=(ops.GATED_SUM,), fits=fits_gated_sum)
GATED_SUM_NORM = Kernel(name="sum and norm", ways=(ops.GATED_SUM_NORM,), fits=fits_gated_sum_norm)
ATTEND_ACROSS_FRAMES = Kernel(
    name="attention across frames", ways=(ops.ATTEND_ACROSS_FRAMES,), fits=fits_frames
)
LINEAR_GELU = Kernel(
    name="linear and GELU",
    ways=tuple(partial(ops.LINEAR_GELU, tile=tile) for tile in range(len(ops.TILES))),
    fits=fits_linear_gelu,
    fixed=-1,  # which tile is best, and whether any beats the vendor's product, only a timing tells
)
