"""Replay a denoiser as one CUDA graph, which spares the launches of a forward pass (1500 and more).

A graph is recorded for the shapes of a call and reads buffers that every later call is copied into:
latents, timesteps, text keys and values, tables of places. Texts are padded to a few lengths, under
a bias, so that prompts of any length share the graphs. What a recorded pass did is done again,
whatever Python would decide, so that nothing that changes from step to step may be inside: step
caches and hooks are refused, and weights that moved are recorded anew. Weights that changed in
place, as merged LoRAs do, are seen.

Where a graph cannot be recorded the model is called as usual, after a single warning.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..model.attention import DEFAULT_HOOKS
from ..model.t2v.blocks import TextFeatures
from ..transfers import send_into

MAX_GRAPHS = 2  # each keeps the memory of a forward pass
WARM_UPS = 3

Replay = Callable[[], None]
"""Computes a recorded call again, from its buffers into its output."""


class Recorder(Protocol):
    """Records calls that read and write the same memory each time."""

    def record(self, call: Callable[[], Tensor]) -> tuple[Tensor, Replay]:
        """Return the output of a call, and what computes it again into the same memory.

        Raises:
            RuntimeError: if it cannot be recorded.
        """
        ...


class CudaRecorder:
    """Records CUDA graphs.

    Args:
        device: of everything that a call reads.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def record(self, call: Callable[[], Tensor]) -> tuple[Tensor, Replay]:
        """Warm up on a stream of its own, where kernels are chosen and built, then record."""
        with torch.cuda.device(self._device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UPS):
                    call()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                output = call()
        return output, graph.replay


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphReport:
    """What was replayed so far.

    Args:
        graphs: recorded.
        replays: calls answered by a graph.
        eager_calls: calls of the model as it is.
        reason: why the last of those was none of a graph; empty if there was none.
    """

    graphs: int
    replays: int
    eager_calls: int
    reason: str

    def sentence(self) -> str:
        """Describe it in one line."""
        made = f"CUDA graphs: {self.graphs} recorded, {self.replays} calls replayed"
        if self.eager_calls:
            made += f", {self.eager_calls} calls without ({self.reason})"
        return f"{made}."


@dataclass(slots=True)
class _Recording:
    """A graph with its buffers, and what was last copied into them."""

    buffers: list[Tensor]
    output: Tensor
    replay: Replay
    places: tuple[int, ...]  # addresses of the weights
    filled: list[tuple[Tensor, int | None]]


class GraphedDenoiser(nn.Module):
    """A Latte whose calls are replayed; to be given to a sampler in its place.

    Args:
        model: a LatteT2V or Latte, in evaluation mode.
        recorder_for: what records where a weight is; by default CUDA graphs, on CUDA alone.
    """

    def __init__(
        self,
        model: nn.Module,
        recorder_for: Callable[[Tensor], Recorder | None] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.config: Any = model.config
        self._recorder_for = recorder_for or cuda_recorder
        self._recordings: dict[Hashable, _Recording] = {}
        self._graphs = self._replays = self._eager_calls = 0
        self._reason = self._failure = ""
        self._told: set[str] = set()
        self._text: tuple[TextFeatures, TextFeatures] | None = None  # the last one, and padded
        self.train(model.training)  # samplers look at this, and change it, for both

    def place_tables(self, *given: Any) -> Any:
        """Return the model's tables of a size."""
        make: Any = self.model.place_tables
        return make(*given)

    def forward(self, *given: Any, **options: Any) -> Tensor:
        """Predict as the model does; arguments are the model's, tensors in them may change."""
        weights = list(self.model.parameters())
        device = weights[0].device
        recorder = self._recorder_for(weights[0])
        reason = self._why_not(weights, recorder, options)
        if recorder is None or reason:
            return self._run_eagerly(reason, given, options)
        call = (given, self._with_padded_text(options))
        key, leaves = structure_of(call), list(tensors_in(call))
        recording = self._recordings.pop(key, None)
        places = tuple(weight.data_ptr() for weight in weights)
        if recording is None or recording.places != places:
            del recording  # first, so that its memory can be used again
            made = self._record(recorder, call, leaves, device)
            if made is None:
                return self._run_eagerly(self._failure, given, options)
            recording = _Recording(*made, places=places, filled=[])
        self._recordings[key] = recording  # the youngest comes last
        while len(self._recordings) > MAX_GRAPHS:
            del self._recordings[next(iter(self._recordings))]
        fill(recording, leaves)
        recording.replay()
        self._replays += 1
        return recording.output.clone()

    def report(self) -> GraphReport:
        """Return what was replayed so far."""
        return GraphReport(
            graphs=self._graphs,
            replays=self._replays,
            eager_calls=self._eager_calls,
            reason=self._reason,
        )

    def clear(self) -> None:
        """Give the memory of all graphs back."""
        self._recordings.clear()
        self._text = None

    def _with_padded_text(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return a call's options with its text at a usual length, made once while it stays."""
        text = options.get("text")
        if text is None:
            return options
        if self._text is None or self._text[0] is not text:
            self._text = (text, text.padded())
        return {**options, "text": self._text[1]}

    def _why_not(
        self, weights: list[nn.Parameter], recorder: Recorder | None, options: dict[str, Any]
    ) -> str:
        """Return why a call cannot be replayed, or nothing."""
        if self._failure:
            return self._failure
        device = weights[0].device
        if recorder is None:
            return f"the model is on {device.type}, and CUDA graphs need CUDA"
        if any(weight.device != device for weight in weights):
            return "its weights are not all on one device, because they are streamed"
        if options.get("hooks", DEFAULT_HOOKS) is not DEFAULT_HOOKS:
            return "a cache or hook decides anew in each step"
        if self.model.training or torch.is_grad_enabled():
            return "gradients are recorded, or the model is in training mode"
        return ""

    def _record(
        self,
        recorder: Recorder,
        call: tuple[tuple[Any, ...], dict[str, Any]],
        leaves: list[Tensor],
        device: torch.device,
    ) -> tuple[list[Tensor], Tensor, Replay] | None:
        """Record a call on buffers of its own; None if that cannot be done."""
        buffers = [leaf.detach().to(device, copy=True).contiguous() for leaf in leaves]
        given, options = with_tensors(call, iter(buffers))
        try:
            output, replay = recorder.record(lambda: self.model(*given, **options))
        except RuntimeError as error:
            # Also where memory runs out, which a call without a graph may still have enough of.
            first = next(iter(str(error).splitlines()), "")
            self._failure = f"recording failed: {type(error).__name__}: {first}"
            self.clear()
            return None
        self._graphs += 1
        return buffers, output, replay

    def _run_eagerly(self, reason: str, given: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
        self._eager_calls += 1
        self._reason = reason
        if reason not in self._told:
            self._told.add(reason)
            warnings.warn(f"The denoiser runs without CUDA graphs: {reason}.", stacklevel=2)
        return self.model(*given, **options)


def cuda_recorder(weight: Tensor) -> Recorder | None:
    """Return what records on the device of a weight, None if it is no CUDA device."""
    return CudaRecorder(weight.device) if weight.is_cuda else None


def fill(recording: _Recording, leaves: list[Tensor]) -> None:
    """Copy the tensors of a call into the buffers, save those that are still there."""
    seen = [(leaf, version_of(leaf)) for leaf in leaves]
    known = recording.filled or [(None, None)] * len(seen)
    for buffer, (leaf, version), (last, last_version) in zip(
        recording.buffers, seen, known, strict=True
    ):
        if leaf is not last or version is None or version != last_version:
            send_into(buffer, leaf)
    recording.filled = seen


def version_of(tensor: Tensor) -> int | None:
    """Return how often a tensor was written to; None where torch does not count."""
    return None if tensor.is_inference() else tensor._version


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a record, a tuple or a dictionary, in a fixed order."""
    if isinstance(value, Tensor):
        yield value
        return
    for part in parts_of(value) or ():
        yield from tensors_in(part)


def with_tensors(value: Any, tensors: Iterator[Tensor]) -> Any:
    """Return a copy of a value with other tensors in it, in the order of `tensors_in`."""
    if isinstance(value, Tensor):
        return next(tensors)
    parts = parts_of(value)
    if parts is None:
        return value
    made = [with_tensors(part, tensors) for part in parts]
    if isinstance(value, tuple):
        return tuple(made)
    if isinstance(value, dict):
        return dict(zip(names_of(value), made, strict=True))
    return dataclasses.replace(value, **dict(zip(names_of(value), made, strict=True)))


def structure_of(value: Any) -> Hashable:
    """Return everything of a value but the numbers in its tensors."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype
    parts = parts_of(value)
    if parts is None:
        return value
    kind: Any = type(value)  # pyright: ignore[reportUnknownVariableType]
    return kind, names_of(value), tuple(structure_of(part) for part in parts)


def parts_of(value: Any) -> list[Any] | None:
    """Return what a record, tuple or dictionary is made of; None for anything else."""
    if isinstance(value, tuple):
        return list(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(value, dict):
        return list(value.values())  # pyright: ignore
    if value is DEFAULT_HOOKS or not dataclasses.is_dataclass(value):
        return None
    return [getattr(value, name) for name in names_of(value)]


def names_of(value: Any) -> tuple[str, ...]:
    """Return the names of the parts of a record or dictionary, () for a tuple."""
    if isinstance(value, tuple):
        return ()
    if isinstance(value, dict):
        return tuple(value)  # pyright: ignore
    return tuple(one.name for one in dataclasses.fields(value))
