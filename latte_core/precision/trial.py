"""Which way of multiplying in eight bits pays on a device: tried on one layer, once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..devices import is_out_of_memory
from ..errors import MissingDependencyError
from ..kernels.choice import OLDEST
from ..kernels.eight_bit import NORM_ROWS, TILES, programs
from ..kernels.ops import build_errors, on_device_of
from ..kernels.store import ChoiceStore, choice_key
from ..kernels.timing import Timer, device_time
from .formats import FP8, INT8, Format, quantise_rows
from .matmul import (
    EMULATION,
    UNPACKING,
    Backend,
    has_product,
    is_capable,
    multiply,
    rows_of,
)
from .names import INT_MM, SCALED_MM, TRITON

LOGGER = logging.getLogger("latte")
ROUNDS = 3
TOKENS = 8192  # enough to fill a card, and a quarter of what Latte-1 multiplies at 512 x 512
COMPARED = 256  # different ones among them, whose products are compared
TOLERANCE = 0.02  # of the root of the mean square: bfloat16 rounds to 0.4 %


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What was found for a device.

    Args:
        backend: how to multiply there.
        sentence: for a person, what is done and why.
        pays: whether products in eight bits are faster than those of the run's own type.
    """

    backend: Backend
    sentence: str
    pays: bool


def find_backend(
    layer: nn.Linear,
    kind: Format,
    device: torch.device,
    *,
    with_kernels: bool = True,
    is_timed: bool = True,
    store: ChoiceStore | None = None,
    timer: Timer = device_time,
) -> Trial:
    """Try one layer of a model in eight bits on a device, on a card against its own type.

    Args:
        layer: a wide one.
        kind: number format.
        device: where it will run.
        with_kernels: try our own, too.
        is_timed: False chooses by rule among those that work.
        store: keeps what a timing found for later processes.
        timer: measures a call on the device.
    """
    if device.type == "cpu":
        return find_on_processor(layer, kind, device)
    if not is_capable(kind, device):
        return Trial(backend=UNPACKING, sentence=no_product(kind, device, layer), pays=False)
    return find_on_card(layer, kind, device, with_kernels, timer, is_timed=is_timed, store=store)


def find_on_card(
    layer: nn.Linear,
    kind: Format,
    device: torch.device,
    with_kernels: bool,
    timer: Timer,
    *,
    is_timed: bool = True,
    store: ChoiceStore | None = None,
) -> Trial:
    """Try a layer in eight bits in each way that a card may know; see `find_backend`."""
    weight = layer.weight.detach().to(device)
    tokens = normal_tokens(weight)
    with torch.no_grad(), on_device_of(weight):
        able = able_backends(kind, weight, tokens, with_kernels)
        if not able:
            return Trial(backend=UNPACKING, sentence=failed(kind, dtype_name(layer)), pays=False)
        if not is_timed:
            return by_rule([backend for backend, _ in able], kind)
        return timed(able, kind, weight, tokens, timer, store if has_programs() else None)


def timed(
    able: list[tuple[Backend, Callable[[], Tensor]]],
    kind: Format,
    weight: Tensor,
    tokens: Tensor,
    timer: Timer,
    store: ChoiceStore | None,
) -> Trial:
    """Return what was faster in an earlier process, else time each way and the layer's own type."""
    names = [name_of(backend) for backend, _ in able]
    key = ""
    if store is not None:
        key = choice_key(f"{kind.name} among {', '.join(names)}", tokens, (tokens, weight))
        known = store.load(key)
        if known is not None and -1 <= known < len(able):
            return remembered(UNPACKING if known < 0 else able[known][0], kind, weight.dtype)
    best, times = fastest(partial(F.linear, tokens, weight), able, timer)
    trial = spoken(best, times, kind, weight.dtype)
    if store is not None:
        store.save(key, names.index(name_of(best)) if trial.pays else -1)
    return trial


def name_of(backend: Backend) -> str:
    """Return what tells a backend from the others of a card."""
    return f"{backend.name}{' with kernels' if backend.with_kernels else ''} {backend.tile}"


def by_rule(able: list[Backend], kind: Format) -> Trial:
    """Return torch's product of fp8, and of int8 our own, which writes no sums of 32 bits."""
    wanted = SCALED_MM if kind is FP8 else TRITON
    backend = min(able, key=lambda one: (one.name != wanted, not one.with_kernels, one.tile))
    sentence = f"Products run in {kind.name} ({backend.name}), by rule: nothing was timed."
    return Trial(backend=backend, sentence=sentence, pays=True)


def remembered(backend: Backend, kind: Format, dtype: torch.dtype) -> Trial:
    """Return what a timing of an earlier process means."""
    if backend is not UNPACKING:
        sentence = f"Products run in {kind.name} ({backend.name}), which was timed here before."
        return Trial(backend=backend, sentence=sentence, pays=True)
    type_name = str(dtype).removeprefix("torch.")
    return Trial(
        backend=UNPACKING,
        sentence=f"{kind.name} saves memory here, but no time, as was timed here before. So "
        f"weights are unpacked for each product, which runs in {type_name}. Leave the precision "
        "out for speed.",
        pays=False,
    )


def find_on_processor(layer: nn.Linear, kind: Format, device: torch.device) -> Trial:
    """Return what is known of processors without timing a layer."""
    if not has_product(kind, device):
        return Trial(backend=UNPACKING, sentence=no_product(kind, device, layer), pays=False)
    return Trial(
        backend=Backend(name=INT_MM, place=device.type),
        sentence=f"Products run in int8 ({INT_MM}): this processor has instructions for them.",
        pays=True,
    )


def normal_tokens(weight: Tensor) -> Tensor:
    """Return tokens (M, K) of the type and device of a weight."""
    draws = torch.Generator().manual_seed(0)
    few = torch.randn(COMPARED, weight.shape[1], generator=draws).to(weight.device, weight.dtype)
    return few.repeat(TOKENS // COMPARED, 1)


def able_backends(
    kind: Format, weight: Tensor, tokens: Tensor, with_kernels: bool
) -> list[tuple[Backend, Callable[[], Tensor]]]:
    """Return what multiplies a layer right on its device, as calls."""
    values, scales = quantise_rows(weight, kind)

    def call(backend: Backend) -> Tensor:
        return multiply(rows_of(tokens, kind, backend), values, scales, None, backend)

    few = tokens[:COMPARED]
    expected = multiply(rows_of(few, kind, EMULATION), values, scales, None, EMULATION).float()
    able: list[tuple[Backend, Callable[[], Tensor]]] = []
    for backend in backends(kind, weight.device, with_kernels):
        step = partial(call, backend)
        if works(step, expected) and (not backend.with_kernels or norms(weight, tokens, kind)):
            able.append((backend, step))
    return able


def backends(kind: Format, device: torch.device, with_kernels: bool) -> list[Backend]:
    """Return what may be tried on a card, the most modest first."""
    name = SCALED_MM if kind is FP8 else INT_MM
    plain = Backend(name=name, place=device.type)
    is_old = torch.cuda.get_device_capability(device) < OLDEST
    if is_old or not with_kernels or not has_programs():
        return [plain]
    own = [replace(plain, name=TRITON, with_kernels=True, tile=tile) for tile in range(len(TILES))]
    return [plain, replace(plain, with_kernels=True), *own]


def has_programs() -> bool:
    """Return whether Triton is installed and can be imported."""
    try:
        programs()
    except MissingDependencyError as error:
        LOGGER.debug("Eight-bit layers do without kernels: %s", error)
        return False
    return True


def works(call: Callable[[], Tensor], expected: Tensor) -> bool:
    """Return whether a call runs on this device and gives what is expected, up to rounding."""
    made = attempted(call)
    if made is None:
        return False
    found = made[:COMPARED].float()
    error = (found - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    return bool(error <= TOLERANCE)


def norms(weight: Tensor, tokens: Tensor, kind: Format) -> bool:
    """Return whether norms can be written in eight bits on this device."""
    row = torch.ones_like(tokens[:1, None])
    return attempted(lambda: NORM_ROWS(tokens[None, :64], row, row, 1e-6, kind.dtype)) is not None


def attempted(call: Callable[[], Any]) -> Any:
    """Return a call's result, or None if the device, the driver or a build cannot do it."""
    try:
        return call()
    except build_errors() as error:
        if is_out_of_memory(error):
            raise
        LOGGER.debug("Not on this device: %s: %s", type(error).__name__, error)
    return None


def fastest(
    own: Callable[[], Tensor],
    able: list[tuple[Backend, Callable[[], Tensor]]],
    timer: Timer,
) -> tuple[Backend, tuple[float, float]]:
    """Return the fastest backend, and the milliseconds of the own type and of that backend."""
    calls: list[Callable[[], Tensor]] = [own, *(call for _, call in able)]
    own()  # the others have run once
    best = [float("inf")] * len(calls)
    for _ in range(ROUNDS):  # in turn, so that a slow moment does not fall on one alone
        best = [min(one, timer(call)) for one, call in zip(best, calls, strict=True)]
    place = min(range(1, len(calls)), key=lambda index: best[index])
    return able[place - 1][0], (best[0], best[place])


def spoken(backend: Backend, times: tuple[float, float], kind: Format, dtype: torch.dtype) -> Trial:
    """Return what two timings mean."""
    own, small = times
    type_name = str(dtype).removeprefix("torch.")
    found = (
        f"one layer took {small:.3g} ms in {kind.name} ({backend.name}), quantising its tokens "
        f"included, and {own:.3g} ms in {type_name}"
    )
    if small < own:
        sentence = f"Products run in {kind.name}: {found}."
        return Trial(backend=backend, sentence=sentence, pays=True)
    return Trial(
        backend=UNPACKING,
        sentence=f"{kind.name} saves memory here, but no time: {found}. So weights are unpacked "
        f"for each product, which runs in {type_name}. Leave the precision out for speed.",
        pays=False,
    )


def failed(kind: Format, dtype: str) -> str:
    """Say that a card should multiply numbers of a kind, but does not; `dtype` takes its place."""
    return (
        f"{kind.name} saves memory here, but no time: this card's generation has {kind.name} "
        "products, but a small one, tried with this torch and driver, did not work. So weights "
        f"are unpacked for each product, which runs in {dtype}. Update torch and the driver, "
        "or leave the precision out for speed."
    )


def no_product(kind: Format, device: torch.device, layer: nn.Linear | None = None) -> str:
    """Say that a device cannot multiply numbers of a kind, and what that means.

    Args:
        kind: number format.
        device: where the model runs.
        layer: of the model, for the type that products run in.
    """
    dtype = "the run's own type" if layer is None else dtype_name(layer)
    if is_capable(kind, device):
        return failed(kind, dtype)
    if device.type == "cpu" and kind is INT8:
        found = "processor has no fast and exact int8 product, which takes VNNI or AMX instructions"
        other = " Leave the precision out for speed."
    else:
        needed = "8.9 (RTX 40 series, H100)" if kind is FP8 else "7.5 (RTX 20 series)"
        found = (
            f"device ({device.type}) has no {kind.name} product, which takes an NVIDIA card of "
            f"compute capability {needed} or later"
        )
        other = " Leave the precision out for speed."
        if kind is FP8 and has_product(INT8, device):
            other = ' Choose "int8", which this device multiplies, or none.'
    return (
        f"{kind.name} saves memory here, but no time: this {found}. So weights are unpacked for "
        f"each product, which runs in {dtype}.{other}"
    )


def dtype_name(layer: nn.Linear) -> str:
    """Return the name of the type that a layer computes in."""
    return str(layer.weight.dtype).removeprefix("torch.")
