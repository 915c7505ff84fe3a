"""What a device computes in, and how running out of memory is told from other errors."""

from __future__ import annotations

import pytest
import torch

from latte_core.devices import half_type, is_cuda, is_out_of_memory, pick_dtype
from latte_core.text.t5 import default_dtype

CARD = torch.device("cuda")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A card of some compute capability, which says that it supports bfloat16, as all do."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: request.param)


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ((6, 1), torch.float16),
        ((7, 0), torch.float16),
        ((7, 5), torch.float16),
        ((8, 0), torch.bfloat16),
        ((8, 9), torch.bfloat16),
        ((12, 0), torch.bfloat16),
    ],
    indirect=["card"],
)
@pytest.mark.usefixtures("card")
def test_hardware_decides_and_not_what_a_card_emulates(expected: torch.dtype) -> None:
    assert half_type(CARD) == expected
    assert pick_dtype(CARD, is_small=False) == expected
    assert pick_dtype(CARD, is_small=True) == torch.float32


@pytest.mark.parametrize(
    ("card", "stored", "expected"),
    [
        ((7, 5), torch.bfloat16, torch.float16),
        ((7, 5), torch.float8_e4m3fn, torch.float16),
        ((7, 5), torch.float16, torch.float16),
        ((7, 5), torch.float32, torch.float32),
        ((8, 6), torch.bfloat16, torch.bfloat16),
        ((8, 6), torch.float8_e4m3fn, torch.bfloat16),
        ((8, 6), torch.float16, torch.float16),
    ],
    indirect=["card"],
)
@pytest.mark.usefixtures("card")
def test_text_encoder_runs_as_stored_where_the_hardware_has_it(
    stored: torch.dtype, expected: torch.dtype
) -> None:
    weights = {"encoder.block.0.weight": torch.zeros(2, 2).to(stored)}
    assert default_dtype(weights, CARD) == expected
    assert default_dtype(weights, "cpu") == torch.float32


@pytest.mark.parametrize("answer", [True, False])
@pytest.mark.parametrize("card", [(9, 0)], indirect=True)
@pytest.mark.usefixtures("card")
def test_amd_cards_are_asked_as_their_numbers_mean_something_else(
    answer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.3")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: answer)
    assert half_type(CARD) == (torch.bfloat16 if answer else torch.float16)


def test_other_accelerators_have_bfloat16_and_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    assert half_type(torch.device("mps")) == torch.bfloat16
    assert not is_cuda(CARD)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert is_cuda(CARD)
    assert not any(is_cuda(torch.device(name)) for name in ("cpu", "mps", "xpu", "meta"))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        MemoryError(),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("HIP error: out of memory"),
        RuntimeError("CUDA error: HIPBLAS_STATUS_ALLOC_FAILED"),
        RuntimeError("miopenStatusAllocFailed"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("Invalid buffer size: 16.00 GiB"),
        RuntimeError(
            "Native API failed. Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_RESOURCES)"
        ),
        RuntimeError("level_zero backend failed: 38 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried ..."),
    ],
)
def test_every_way_of_saying_that_memory_is_used_up_is_recognised(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
        RuntimeError("out of resource: shared memory, Required: 131072, Hardware limit: 101376"),
        ValueError("out of memory"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_are_not(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_a_real_allocation_failure_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**14)
    assert is_out_of_memory(caught.value)
