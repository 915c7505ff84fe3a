"""Torch's own attention kernels: what they are given, and what is done where one of them fails."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from latte_test_support.tiny.latte import tiny_latte
from latte_test_support.tiny.t2v import tiny_model
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from latte_core.kernels.backends import Backends
from latte_core.kernels.choice import KernelSet, KernelUse
from latte_core.model.attention import attend

SIZE = (2, 4, 3, 4, 6)
SCORES = (2, 3, 4, 8)  # B N rows D/N


class Watched(TorchFunctionMode):
    """Notes what torch's attention is given, and whether cuDNN may be asked."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[Tensor, ...]] = []
        self.asks_cudnn: list[bool] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.given.append(args)
            self.asks_cudnn.append(torch.backends.cuda.cudnn_sdp_enabled())
        return func(*args, **(kwargs or {}))


class PickyAttention(TorchFunctionMode):
    """Attention of which cuDNN, asked first, has no plan; `error` is what it says."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.failures = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention and torch.backends.cuda.cudnn_sdp_enabled():
            self.failures += 1
            raise self.error
        return func(*args, **(kwargs or {}))


class ReadyBackends(Backends):
    """Chooses on the CPU as it would on a GPU."""

    def applies(self, tokens: Tensor) -> bool:
        return True


def heads(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(SCORES, generator=draws) for _ in range(3))  # type: ignore[return-value]


def text_call(model: nn.Module, prompts: int, **options: Any) -> Tensor:
    draws = torch.Generator().manual_seed(0)
    half = torch.randn(1, *SIZE[1:], generator=draws)
    context = torch.randn(prompts, 5, 24, generator=draws)
    return model(half.expand(SIZE), torch.tensor([500.0]), context, **options)


@torch.no_grad()
@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("shared", [False, True])
def test_attention_is_given_rows_that_all_have_memory_of_their_own(
    prompts: int, shared: bool
) -> None:
    with Watched() as watched:
        text_call(tiny_model(), prompts, shared_input=shared)
    assert len(watched.given) == 6
    for tensors in watched.given:
        for tensor in tensors:
            sizes = zip(tensor.shape, tensor.stride(), strict=True)
            assert all(stride > 0 for size, stride in sizes if size > 1), tensor.stride()


NO_PLAN = "No valid execution plans built.\nand more"


def test_kernel_without_a_plan_is_replaced_with_one_notice_and_not_asked_again() -> None:
    backends, given = ReadyBackends(), heads()
    expected = F.scaled_dot_product_attention(*given)
    with PickyAttention(RuntimeError(NO_PLAN)) as picky:
        with pytest.warns(UserWarning, match="No valid execution plans built.\\), so another"):
            found = backends.attend(*given, None, across_frames=False)
        assert torch.equal(backends.attend(*given, None, across_frames=False), found)
        assert picky.failures == 1
        longer = tuple(one.repeat(1, 1, 2, 1) for one in given)
        backends.attend(*longer, None, across_frames=False)  # another shape: asked, and not told
        assert picky.failures == 2
    torch.testing.assert_close(found, expected)
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_attention_across_frames_never_asks_cudnn() -> None:
    with PickyAttention(RuntimeError(NO_PLAN)) as picky, warnings.catch_warnings():
        warnings.simplefilter("error")
        ReadyBackends().attend(*heads(), None, across_frames=True)
    assert picky.failures == 0


@torch.no_grad()
@pytest.mark.parametrize("kind", ["text", "class"])
def test_models_say_which_attention_is_across_frames(kind: str) -> None:
    model: Any = tiny_model() if kind == "text" else tiny_latte()
    model.kernels = KernelSet(KernelUse.NEVER)
    model.kernels.backends = ReadyBackends()
    with Watched() as watched:
        if kind == "text":
            text_call(model, 2)
        else:
            model(torch.zeros(2, 4, 4, 8, 8), torch.tensor([5, 7]), torch.tensor([0, 1]))
    kinds = [True, True, False] if kind == "text" else [True, False]  # spatial, cross, temporal
    assert watched.asks_cudnn == kinds * (len(watched.asks_cudnn) // len(kinds))


def test_lack_of_memory_is_no_reason_for_another_kernel() -> None:
    error = torch.OutOfMemoryError("out of memory")
    with PickyAttention(error), pytest.raises(torch.OutOfMemoryError):
        ReadyBackends().attend(*heads(), None, across_frames=False)


def test_error_of_every_kernel_is_the_last_ones() -> None:
    q, k, v = heads()
    with (
        pytest.warns(UserWarning, match="another one is used"),
        pytest.raises(RuntimeError, match="Expected size"),
    ):
        ReadyBackends().attend(q, k[..., :4], v, None, across_frames=False)


def test_cpus_are_left_to_torch() -> None:
    with PickyAttention(RuntimeError(NO_PLAN)), pytest.raises(RuntimeError, match="No valid"):
        attend(*(one.transpose(1, 2) for one in heads()))


@pytest.mark.parametrize("across", [False, True])
def test_a_compiled_attention_names_its_kernels_in_one_graph(across: bool) -> None:
    backends = ReadyBackends()

    def call(*given: Tensor) -> Tensor:
        return backends.attend(*given, None, across_frames=across)

    compiled: Any = torch.compile(call, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*heads()), F.scaled_dot_product_attention(*heads()))
