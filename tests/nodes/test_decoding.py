"""Latte VAE Decode on a stand-in for ComfyUI: pieces, what is asked for, and short memory."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from latte_test_support.pack import load_pack
from torch import Tensor

from latte_core.vae.pieces import Decoder

WIDTHS = (128, 256, 512, 512)  # of Latte-1's VAEs
GB = 10**9
Decode = Callable[..., Tensor]


class VideoDecoder:
    """Has the sizes of a decoder where ComfyUI's has them."""

    def __init__(self) -> None:
        def level(width: int) -> Any:
            weight = torch.empty(width, 1, 1, 1, device="meta")
            return SimpleNamespace(block=[SimpleNamespace(conv1=SimpleNamespace(weight=weight))])

        self.up = [level(width) for width in WIDTHS]


class Host:
    """What ComfyUI answers and is asked.

    Args:
        free: bytes that it says are free.
        most: frames that the decoder has room for.
    """

    def __init__(self, free: float, most: int) -> None:
        self.free, self.most = free, most
        self.asked: list[float] = []
        self.read: list[int] = []
        self.told: list[tuple[int, int]] = []
        stage = SimpleNamespace(decoder=VideoDecoder(), decode=self._decode)
        self.vae = SimpleNamespace(
            first_stage_model=stage,
            patcher=SimpleNamespace(),
            device=torch.device("cpu"),
            output_device=torch.device("cpu"),
            vae_dtype=torch.bfloat16,
            # ComfyUI's own figure, for one frame of an image VAE
            memory_used_decode=lambda shape, dtype: 2178 * 64 * shape[2] * shape[3] * 2,
            process_output=lambda pixels: pixels.clamp(0, 1),
        )

    def _decode(self, latents: Tensor) -> Tensor:
        """Paint every pixel in the number of its frame."""
        self.read.append(len(latents))
        if len(latents) > self.most:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
        rows, columns = latents.shape[2] * 8, latents.shape[3] * 8
        return latents[:, :1, :1, :1].expand(-1, 3, rows, columns)

    def _load(self, models: Any, memory_required: float) -> None:
        self.asked.append(memory_required)

    def modules(self) -> dict[str, ModuleType]:
        """Return the modules that the node imports."""
        parts: dict[str, dict[str, Any]] = {
            "comfy": {},
            "comfy.ldm": {},
            "comfy.ldm.modules": {},
            "comfy.ldm.modules.temporal_ae": {"VideoDecoder": VideoDecoder},
            "comfy.model_management": {
                "load_models_gpu": self._load,
                "get_free_memory": lambda device: self.free,
                "soft_empty_cache": lambda: None,
                "throw_exception_if_processing_interrupted": lambda: None,
            },
            "comfy.utils": {
                "ProgressBar": lambda total: SimpleNamespace(
                    update=lambda steps: None,
                    update_absolute=lambda done, total: self.told.append((done, total)),
                )
            },
        }
        found: dict[str, ModuleType] = {}
        for name, values in parts.items():
            found[name] = ModuleType(name)
            vars(found[name]).update(values)
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(found[parent], child, found[name])
        return found


@pytest.fixture
def make_host(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Host, Decode]]:
    def make(free: float = 24 * GB, most: int = 1000) -> tuple[Host, Decode]:
        host = Host(free, most)
        for name, module in host.modules().items():
            monkeypatch.setitem(sys.modules, name, module)
        name = f"{load_pack().__name__}.nodes.host.vae.decode"
        monkeypatch.delitem(sys.modules, name, raising=False)
        module = importlib.import_module(name)
        monkeypatch.delitem(sys.modules, name)
        return host, lambda videos, chunk=0: module.decode_clips(host.vae, videos, chunk)

    return make


def numbered(num_videos: int, num_frames: int, cells: int = 64) -> Tensor:
    """Return latents (B, 4, F, h, w) without memory behind them, of frames of growing values."""
    count = num_videos * num_frames
    values = torch.arange(count).view(num_videos, 1, num_frames, 1, 1) / 512  # exact in bfloat16
    return values.expand(-1, 4, -1, cells, cells)


def traced(num_frames: int, cells: int = 64) -> int:
    decoder = Decoder.of(WIDTHS, is_temporal=True)
    return decoder.bytes_for(num_frames * cells**2, 2)


@pytest.mark.parametrize(
    ("num_frames", "chunk", "read"),
    [(16, 0, [16]), (30, 0, [18, 20, 6]), (30, 14, [14, 14, 2]), (20, 4096, [20])],
)
def test_pieces_are_those_of_latte_core_and_every_frame_is_kept_once(
    make_host: Callable[..., tuple[Host, Decode]], num_frames: int, chunk: int, read: list[int]
) -> None:
    host, decode = make_host()

    frames = decode(numbered(2, num_frames, cells=2), chunk)

    assert host.read == read * 2
    assert frames.shape == (2 * num_frames, 16, 16, 3)
    assert torch.equal(frames[:, 3, 5, 1] * 512, torch.arange(2 * num_frames).float())
    pieces = 2 * len(read)
    assert host.told == [(done, pieces) for done in range(1, pieces + 1)]


def test_sixteen_frames_ask_for_what_is_used(
    make_host: Callable[..., tuple[Host, Decode]],
) -> None:
    host, decode = make_host()

    decode(numbered(1, 16))

    assert host.asked == [traced(16)] == [2**33]  # 8.6 GB


def test_long_clips_ask_for_a_piece(make_host: Callable[..., tuple[Host, Decode]]) -> None:
    host, decode = make_host()

    decode(numbered(1, 64, cells=8))

    assert host.asked == [traced(22, cells=8)]


def test_what_is_not_free_is_not_tried_and_said(
    make_host: Callable[..., tuple[Host, Decode]], caplog: pytest.LogCaptureFixture
) -> None:
    host, decode = make_host(free=traced(10))

    with caplog.at_level(logging.WARNING, logger="latte"):
        frames = decode(numbered(1, 16))

    assert host.read == [10, 10]
    assert torch.equal(frames[:, 0, 0, 0] * 512, torch.arange(16).float())
    assert [record.getMessage() for record in caplog.records] == [
        "Latte: not enough memory to decode 16 frames together; decoding 8 at a time, which "
        "changes the frames slightly."
    ]


def test_exhausted_memory_makes_every_later_piece_smaller(
    make_host: Callable[..., tuple[Host, Decode]], caplog: pytest.LogCaptureFixture
) -> None:
    host, decode = make_host(most=9)

    with caplog.at_level(logging.WARNING, logger="latte"):
        frames = decode(numbered(2, 16, cells=16))

    assert host.read == [16, 10, 6, 8, 8, 6, 6, 8, 8, 6]
    assert torch.equal(frames[:, 0, 0, 0] * 512, torch.arange(32).float())
    assert len(caplog.records) == 1
    assert "decoding 4 at a time" in caplog.records[-1].getMessage()


def test_other_errors_of_the_decoder_come_through(
    make_host: Callable[..., tuple[Host, Decode]],
) -> None:
    host, decode = make_host()

    def broken(latents: Tensor) -> Tensor:
        raise RuntimeError("no such kernel")

    host.vae.first_stage_model.decode = broken
    with pytest.raises(RuntimeError, match="no such kernel"):
        decode(numbered(1, 16, cells=2))
