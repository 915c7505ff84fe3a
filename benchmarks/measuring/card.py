"""What sections measure with: clock, memory and idle time of a card, or of the CPU in a rehearsal.

A CPU has no events and no pool of memory. In their place it has seconds of the processor and, on
Linux, the resident size of the process, so that every figure has a number there too.
"""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from measuring.clocks import in_turns, seconds_on_cpu, seconds_on_gpu
from measuring.memory import reset_peak, resident_bytes

GB = 1e9
PROFILE_ROWS = 40


class Card:
    """The device that is measured.

    Args:
        device: a CUDA device, or cpu.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.is_gpu = device != "cpu"
        if self.is_gpu:
            torch.cuda.set_device(torch.device(device).index or 0)
        self.has_resident = Path("/proc/self/clear_refs").is_file()

    def about(self) -> dict[str, Any]:
        """Return what the device is."""
        if not self.is_gpu:
            return {"device": f"{platform.machine()} CPU", "threads": torch.get_num_threads()}
        found = torch.cuda.get_device_properties(self.device)
        return {
            "device": found.name,
            "memory_gb": round(found.total_memory / GB, 2),
            "compute_capability": f"{found.major}.{found.minor}",
            "multiprocessors": found.multi_processor_count,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }

    def synchronize(self) -> None:
        """Wait until the device has nothing to do."""
        if self.is_gpu:
            torch.cuda.synchronize()

    def seconds(self, call: Callable[[], Any]) -> float:
        """Return the seconds of a call: between events, or of the processor."""
        return (seconds_on_gpu if self.is_gpu else seconds_on_cpu)(call)

    def wall(self, call: Callable[[], Any]) -> tuple[Any, float]:
        """Return what a call made, and its seconds by the clock, the device's work included."""
        self.synchronize()
        start = time.perf_counter()
        made = call()
        self.synchronize()
        return made, time.perf_counter() - start

    def in_turns(
        self, calls: Mapping[str, Callable[[], Any]], rounds: int, seed: int = 0
    ) -> dict[str, list[float]]:
        """Return the seconds of calls that are made in turns, by name."""
        return in_turns(calls, rounds, self.seconds, seed)

    def free(self) -> None:
        """Let go of what nobody holds."""
        gc.collect()
        if self.is_gpu:
            torch.cuda.empty_cache()

    def start_peak(self) -> int:
        """Let peaks begin now; return the bytes that are held already."""
        self.synchronize()
        if self.is_gpu:
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated()
        if not self.has_resident:
            return 0
        reset_peak()
        return resident_bytes("VmRSS")

    def peak(self) -> tuple[int, int]:
        """Return the most bytes that were allocated, and reserved, since `start_peak`."""
        self.synchronize()
        if self.is_gpu:
            return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        found = resident_bytes("VmHWM") if self.has_resident else 0
        return found, found

    def memory_of(self, call: Callable[[], Any]) -> dict[str, float]:
        """Return the peaks of a call, and what it took beside what was held before, in GB."""
        self.free()
        held = self.start_peak()
        call()
        allocated, reserved = self.peak()
        return {
            "peak_allocated_gb": round(allocated / GB, 3),
            "peak_reserved_gb": round(reserved / GB, 3),
            "work_gb": round(max(allocated - held, 0) / GB, 3),
        }

    def limit(self, num_bytes: float | None) -> None:
        """Let this process have so many bytes of the card, or None for all of it."""
        if self.is_gpu:
            whole = torch.cuda.get_device_properties(self.device).total_memory
            share = 1.0 if num_bytes is None else min(num_bytes / whole, 1.0)
            torch.cuda.set_per_process_memory_fraction(share)

    def profile(self, call: Callable[[], Any]) -> tuple[float, str]:
        """Return the seconds of a call in which the device works, and a table of what it does."""
        kinds = [torch.profiler.ProfilerActivity.CPU]
        kinds += [torch.profiler.ProfilerActivity.CUDA] if self.is_gpu else []
        self.synchronize()
        with torch.profiler.profile(activities=kinds) as profile:
            self.wall(call)
        wanted = torch.autograd.DeviceType.CUDA if self.is_gpu else torch.autograd.DeviceType.CPU
        spans = [
            (one.time_range.start, one.time_range.end)
            for one in profile.events()
            if one.device_type == wanted
        ]
        order = "self_device_time_total" if self.is_gpu else "self_cpu_time_total"
        table = profile.key_averages().table(sort_by=order, row_limit=PROFILE_ROWS)
        return covered(spans) / 1e6, table


class StagePeaks:
    """Peaks of encoding with the first step, of the other steps, and of decoding.

    Args:
        pipeline: whose `decode` tells when sampling is over.
        card: what tells peaks, as `Card` does.
    """

    def __init__(self, pipeline: Any, card: Any) -> None:
        self.peaks: dict[str, int] = {}
        self._card = card
        self._stage = "text encoder and first step"
        self._decode = pipeline.decode
        pipeline.decode = self._on_decode

    def start(self) -> None:
        """Begin with the first stage."""
        self._card.start_peak()

    def on_step(self, _: Any) -> None:
        """Go on to the stage of the other steps; a `StepCallback`."""
        self._next("other steps")

    def stop(self) -> None:
        """End the last stage."""
        self._next("")

    def _on_decode(self, latents: Tensor, **options: Any) -> Tensor:
        self._next("decoding")
        return self._decode(latents, **options)

    def _next(self, stage: str) -> None:
        peak, _ = self._card.peak()
        self.peaks[self._stage] = max(peak, self.peaks.get(self._stage, 0))
        self._card.start_peak()
        self._stage = stage


def covered(spans: list[tuple[float, float]]) -> float:
    """Return the time that is covered by spans from a begin to an end, which may overlap."""
    busy, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        busy += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return busy
