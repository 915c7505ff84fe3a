"""Kernels take the place of torch only where they can, may, agree and are faster."""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.kernels.tasks import ReadyKernels, double, same_double, wrong
from latte_test_support.tiny.latte import tiny_latte
from latte_test_support.tiny.t2v import tiny_config, tiny_model
from torch import Tensor, nn

from latte_core import kernels as kernels_package
from latte_core.acceleration.compilation import compile_model
from latte_core.kernels.choice import (
    ATTEND_ACROSS_FRAMES,
    GATED_SUM,
    GATED_SUM_NORM,
    LINEAR_GELU,
    MODULATED_NORM,
    Kernel,
    KernelSet,
    KernelUse,
    is_plain_linear,
)
from latte_core.model.attention import BlockHooks
from latte_core.model.t2v.transformer import LatteT2V
from latte_core.model.weights.lora import LoraSettings, add_lora


class Clock:
    """Says how long each function takes, and counts how often it was asked."""

    def __init__(self, **times: float) -> None:
        self.times = times
        self.asked = 0

    def __call__(self, call: Any) -> float:
        self.asked += 1
        return self.times[call.func.__name__]


def task(*ways: Callable[[Tensor], Tensor]) -> Kernel[[Tensor], Tensor]:
    """Return a task that fits everything but a single row."""
    return Kernel(name="double", ways=ways, fits=lambda tokens: tokens.shape[0] > 1)


def chosen(kernels: KernelSet) -> list[int]:
    return list(kernels.choices.values())


@pytest.mark.parametrize(("time", "choice"), [(1.0, 0), (3.0, -1), (2.0, -1)])
def test_kernel_is_used_where_it_is_faster_and_timed_once_per_shape(
    time: float, choice: int
) -> None:
    pytest.importorskip("triton")
    clock = Clock(double=2.0, same_double=time)
    kernels, kernel = ReadyKernels(timer=clock), task(same_double)
    for _ in range(3):
        assert torch.equal(kernels.run(kernel, double, torch.ones(2, 4)), torch.full((2, 4), 2.0))
    asked = clock.asked
    assert chosen(kernels) == [choice]
    kernels.run(kernel, double, torch.ones(2, 5))
    kernels.run(kernel, double, torch.ones(2, 5).half())
    kernels.run(kernel, double, torch.ones(5, 2).T)
    assert chosen(kernels) == [choice] * 4
    assert clock.asked == 4 * asked


def test_fastest_of_several_kernels_is_used() -> None:
    pytest.importorskip("triton")

    def thrice(tokens: Tensor) -> Tensor:
        return 3 * tokens - tokens

    kernels = ReadyKernels(timer=Clock(double=2.0, same_double=1.5, thrice=1.0))
    kernels.run(task(same_double, thrice), double, torch.ones(2, 4))
    assert chosen(kernels) == [1]


def test_kernel_with_another_result_is_refused_aloud() -> None:
    pytest.importorskip("triton")
    kernels = ReadyKernels(timer=Clock(double=2.0, wrong=1.0))
    with pytest.warns(UserWarning, match="does not give torch's result"):
        found = kernels.run(task(wrong), double, torch.ones(2, 4))
    assert torch.equal(found, torch.full((2, 4), 2.0))
    assert chosen(kernels) == [-1]


def test_kernel_that_asks_for_too_much_leaves_the_others_in_the_race() -> None:
    errors = pytest.importorskip("triton.runtime.errors")

    def huge(tokens: Tensor) -> Tensor:
        raise errors.OutOfResources(200_000, 100_000, "shared memory")

    kernels = ReadyKernels(timer=Clock(double=2.0, same_double=1.0))
    kernels.run(task(huge, same_double), double, torch.ones(2, 4))
    assert chosen(kernels) == [1]


def test_kernels_that_cannot_be_built_are_given_up_with_the_reason() -> None:
    pytest.importorskip("triton")

    def unbuildable(tokens: Tensor) -> Tensor:
        raise RuntimeError("Failed to find C compiler")

    kernels = ReadyKernels()
    with pytest.warns(UserWarning, match="Failed to find C compiler.*torch's own operators"):
        found = kernels.run(task(unbuildable), double, torch.ones(2, 4))
    assert torch.equal(found, torch.full((2, 4), 2.0))
    assert kernels.is_able == {torch.device("cpu"): False}


def test_errors_of_torchs_own_operators_are_not_blamed_on_kernels() -> None:
    pytest.importorskip("triton")

    def failing(tokens: Tensor) -> Tensor:
        raise RuntimeError("No valid execution plans built.")

    kernels = ReadyKernels()
    with pytest.raises(RuntimeError, match="No valid execution plans"):
        kernels.run(task(same_double), failing, torch.ones(2, 4))
    assert kernels.is_able == {}
    assert kernels.choices == {}


class TritonFolder:
    """An installed Triton, in the place of any other."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.package = folder / "triton"
        self.package.mkdir()
        monkeypatch.syspath_prepend(folder)
        for name in [*sys.modules]:
            if name.partition(".")[0] == "triton":
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.delitem(sys.modules, "latte_core.kernels.programs", raising=False)
        monkeypatch.delattr(kernels_package, "programs", raising=False)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))

    def raises(self, error: str) -> None:
        (self.package / "__init__.py").write_text(f"raise {error}\n", encoding="utf-8")


CPU = torch.device("cpu")


class SeeingKernels(KernelSet):
    """Takes the CPU for a card, and finds out what it can do."""

    def is_active(self, tokens: Tensor) -> bool:
        return self._can_run(tokens.device)


@pytest.mark.parametrize(
    "error",
    [
        "ImportError('DLL load failed while importing libtriton')",
        "OSError('[WinError 126] The specified module could not be found')",
        "ModuleNotFoundError('No module named triton._C', name='triton._C')",
        "AttributeError('module has no attribute jit')",
    ],
)
def test_triton_that_does_not_import_is_told_once_and_leaves_everything_to_torch(
    error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TritonFolder(tmp_path, monkeypatch).raises(error)
    kernels = SeeingKernels()
    with pytest.warns(UserWarning, match="Triton is installed but does not import") as caught:
        for length in (4, 5):
            found = kernels.run(task(same_double), double, torch.ones(2, length))
            assert torch.equal(found, torch.full((2, length), 2.0))
    assert len(caught) == 1
    assert kernels.is_able == {CPU: False}


def test_no_triton_at_all_needs_no_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = "ModuleNotFoundError(\"No module named 'triton'\", name='triton')"
    TritonFolder(tmp_path, monkeypatch).raises(missing)
    kernels = SeeingKernels()
    assert torch.equal(kernels.run(task(wrong), double, torch.ones(2, 4)), torch.full((2, 4), 2.0))
    assert kernels.is_able == {CPU: False}


def test_lack_of_memory_is_not_taken_for_a_broken_kernel() -> None:
    pytest.importorskip("triton")

    def greedy(tokens: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        ReadyKernels().run(task(greedy), double, torch.ones(2, 4))


@pytest.mark.parametrize("use", list(KernelUse))
def test_kernels_are_left_alone_on_a_cpu_and_with_gradients(use: KernelUse) -> None:
    kernels, tokens = KernelSet(use), torch.ones(2, 4)
    assert not kernels.is_active(tokens)  # gradients are recorded
    with torch.no_grad():
        assert kernels.is_active(tokens) is (use is KernelUse.ALWAYS)


def test_task_that_a_kernel_does_not_fit_is_torchs() -> None:
    with torch.no_grad():
        found = KernelSet(KernelUse.ALWAYS).run(task(wrong), double, torch.ones(1, 4))
    assert torch.equal(found, torch.full((1, 4), 2.0))


ROW = torch.ones(2, 1, 8)


@pytest.mark.parametrize(
    "tokens",
    [
        pytest.param(torch.ones(2, 8, 3).transpose(1, 2), id="columns"),
        pytest.param(torch.ones(2, 3, 8, dtype=torch.float64), id="float64"),
        pytest.param(torch.ones(2, 3, 8).bfloat16(), id="two types"),
        pytest.param(torch.ones(3, 3, 8), id="rows of other videos"),
        pytest.param(torch.ones(2, 0, 8), id="empty"),
        pytest.param(torch.ones(2, 3, 8, device="meta"), id="two devices"),
    ],
)
def test_norms_and_sums_of_what_programs_cannot_read_are_torchs(tokens: Tensor) -> None:
    assert MODULATED_NORM.fits(torch.ones(2, 3, 8), ROW, ROW[:1], 1e-6)
    assert not MODULATED_NORM.fits(tokens, ROW, ROW[:1], 1e-6)
    assert not GATED_SUM.fits(tokens, tokens, ROW)


@pytest.mark.parametrize(
    ("size", "fits"),
    [((2, 1, 1, 8), True), ((1, 1, 1, 8), True), ((2, 3, 1, 8), False), ((2, 1, 8), False)],
    ids=["one per video", "one for all", "one per frame", "of other axes"],
)
def test_rows_for_tokens_by_frame_serve_whole_videos(size: tuple[int, ...], fits: bool) -> None:
    tokens, row = torch.ones(2, 3, 4, 8), torch.ones(size)
    assert MODULATED_NORM.fits(tokens, row, row, 1e-6) is fits
    assert GATED_SUM.fits(tokens, tokens, row) is fits


def test_long_clips_and_wide_heads_are_torchs() -> None:
    for frames, width, fits in ((32, 72, True), (33, 72, False), (32, 136, False)):
        heads = torch.ones(1, frames * 2, 1, width)
        assert ATTEND_ACROSS_FRAMES.fits(heads, heads, heads, frames) is fits


def test_weights_of_another_type_are_torchs() -> None:
    tokens, weight, bias = torch.ones(2, 3, 8), torch.ones(4, 8), torch.ones(4)
    assert LINEAR_GELU.fits(tokens, weight, bias)
    assert not LINEAR_GELU.fits(tokens, weight.to(torch.float8_e4m3fn), bias)
    assert not LINEAR_GELU.fits(tokens, weight.to("meta"), bias)


class HostLinear(nn.Linear):
    """A layer that may fetch or patch its weights when it is called."""


class HostOperations(nn.Module):
    Conv2d = nn.Conv2d
    Linear = HostLinear


def hooked() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.register_forward_pre_hook(lambda *_: None)
    return layer


def parametrised() -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        pytest.param(lambda: nn.Linear(2, 2), True, id="plain"),
        pytest.param(lambda: nn.Linear(2, 2, bias=False), False, id="no bias"),
        pytest.param(lambda: HostLinear(2, 2), False, id="of a host"),
        pytest.param(hooked, False, id="watched"),
        pytest.param(parametrised, False, id="parametrised"),
    ],
)
def test_kernels_read_the_weights_of_plain_layers_alone(
    layer: Callable[[], nn.Module], expected: bool
) -> None:
    assert is_plain_linear(layer()) is expected


class NamedCalls(KernelSet):
    """Notes which kernels a model would use, and uses torch."""

    def __init__(self) -> None:
        super().__init__(KernelUse.ALWAYS)
        self.seen: list[Any] = []

    def run(self, kernel: Any, plain: Any, *args: Any, **kwargs: Any) -> Any:
        self.seen.append(kernel)
        return plain(*args, **kwargs)


def latte_inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(2, 4, 3, 4, 6, generator=generator)
    return latents, torch.tensor([40.0, 900.0]), torch.randn(2, 5, 24, generator=generator)


@pytest.mark.parametrize("kind", ["plain", "host", "lora"])
def test_layers_of_hosts_and_adapters_keep_their_own_product(kind: str) -> None:
    model = tiny_model()
    if kind == "host":
        model = LatteT2V.from_config(tiny_config(), operations=HostOperations)
    if kind == "lora":
        settings = LoraSettings(rank=1, targets=("feed_forward",))
        add_lora(model, settings, generator=torch.Generator().manual_seed(0))
    kernels = model.kernels = NamedCalls()
    with torch.no_grad():
        model(*latte_inputs())
    assert (LINEAR_GELU in kernels.seen) is (kind == "plain")
    assert MODULATED_NORM in kernels.seen


@pytest.mark.parametrize("variant", [1, 2, 3, 4])
def test_class_models_offer_all_that_kernels_know_and_change_no_bit(variant: int) -> None:
    offered, plain = tiny_latte(variant=variant), tiny_latte(variant=variant)
    kernels = offered.kernels = NamedCalls()
    latents, timesteps, _ = latte_inputs()
    with torch.no_grad():
        found = offered(latents, timesteps, torch.tensor([0, 4]))
        expected = plain(latents, timesteps, torch.tensor([0, 4]))
    blocks, attentions = len(offered.blocks), {1: 2, 2: 2, 3: 4, 4: 4}[variant]
    norms = blocks * (3 if variant == 3 else 2) + 1
    # no sum is owed to the first norm, nor to the one behind the temporal table, which variant 4
    # adds before its first block
    alone = 1 if variant == 4 else 2
    assert Counter(kernel.name for kernel in kernels.seen) == {
        LINEAR_GELU.name: blocks,
        ATTEND_ACROSS_FRAMES.name: attentions,
        MODULATED_NORM.name: alone,
        GATED_SUM_NORM.name: norms - alone,
        **({} if variant == 4 else {GATED_SUM.name: 1}),
    }
    assert torch.equal(found, expected)


@torch.no_grad()
@pytest.mark.parametrize("variant", [1, 2, 3, 4])
def test_hooks_around_blocks_of_class_models_see_whole_tokens(variant: int) -> None:
    given = (*latte_inputs()[:2], torch.tensor([0, 4]))
    seen: dict[str, list[Tensor]] = {"kernels": [], "torch": []}
    for name, tokens in seen.items():
        model = tiny_latte(variant=variant)
        if name == "kernels":
            model.kernels = NamedCalls()

        def run_block(_: int, fn: Any, hidden: Tensor, *rest: Tensor, to: Any = tokens) -> Tensor:
            to.extend([hidden, fn(hidden, *rest)])
            return to[-1]

        seen[name].append(model(*given, hooks=BlockHooks(run_block=run_block)))
    assert len(seen["torch"]) == 2 * tiny_latte(variant=variant).config.num_units + 1
    assert all(map(torch.equal, seen["kernels"], seen["torch"]))


@torch.no_grad()
@pytest.mark.parametrize("variant", [1, 2, 3, 4])
def test_compiled_blocks_of_class_models_stand_beside_kernels(variant: int) -> None:
    given = (*latte_inputs()[:2], torch.tensor([0, 4]))
    model = tiny_latte(variant=variant)
    expected = model(*given)
    kernels = model.kernels = NamedCalls()
    compiler = compile_model(model, backend="eager")
    torch.testing.assert_close(model(*given), expected, atol=1e-5, rtol=1e-5)
    assert compiler.report().eager_calls == 0
    # the compiler fuses within blocks, a kernel is left for the last norm
    assert [kernel.name for kernel in kernels.seen] == [MODULATED_NORM.name]


def test_carried_sums_change_no_bit() -> None:
    carried, plain = tiny_model(), tiny_model()
    carried.kernels = NamedCalls()
    with torch.no_grad():
        assert torch.equal(carried(*latte_inputs()), plain(*latte_inputs()))


def test_copies_of_a_model_choose_for_themselves() -> None:
    model = tiny_model()
    model.kernels.choices["a shape"] = 0
    assert copy.deepcopy(model).kernels is not model.kernels
    assert tiny_model().kernels.choices == {}
