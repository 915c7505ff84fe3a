"""Compile the blocks of a Latte with torch.compile, one graph for all layers of a kind.

Regional compilation (docs/acceleration.md 8): the graph of a block is made once for the size of a
run and used by every layer, at every step, for prompts of any length: those are padded to a few,
under a bias, because torch makes a graph of its own for a single token. Embedding, timestep tables,
text keys and values, caching decisions and the head stay outside, so that nothing they do makes a
graph anew. Weights are inputs of a graph: a LoRA merged into them is seen, without compiling again.

Where compiling fails, blocks run as they are, after a single warning; see `RegionalCompiler`.
"""

from __future__ import annotations

import time
import types
import warnings
from collections.abc import Callable, Generator, Hashable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..devices import is_out_of_memory
from ..errors import IncompatibleInputsError
from ..model.attention import BlockHooks
from ..model.residual import Owed, settled
from ..model.t2v.transformer import LatteT2V
from .compilation_regions import Region, RegionCall, blocks_of, can_compile

Tell = Callable[[str], None]
"""Passes a sentence on to the user."""

Backend = Callable[[Any, Any], Any]
"""A backend of torch.compile: (graph, example inputs) -> what runs it."""

FORWARD = "forward"
NO_GRAPHS = "max-autotune-no-cudagraphs"  # CUDA graphs are made elsewhere, of the whole denoiser


@dataclass(frozen=True, kw_only=True, slots=True)
class CompileReport:
    """What was compiled so far.

    Args:
        sizes: block kinds and sizes that were met: each needs one graph.
        graphs: graphs that were made.
        seconds: wall time of the calls that made them.
        eager_calls: block calls that ran as they are.
        failure: why nothing is compiled any more, in one line; empty if all is well.
    """

    sizes: int
    graphs: int
    seconds: float
    eager_calls: int
    failure: str

    @property
    def recompiles(self) -> int:
        """Graphs beyond the first of each kind and size."""
        return max(self.graphs - self.sizes, 0)

    def sentence(self) -> str:
        """Describe it in one line."""
        if self.failure:
            return f"Compiling failed, blocks run as they are: {self.failure}"
        made = f"{self.graphs} graphs in {self.seconds:.1f} s, {self.recompiles} recompiled"
        if self.eager_calls:
            made += f", {self.eager_calls} block calls not compiled"
        return f"Compiled: {made}."


class RegionalCompiler:
    """Compiles the blocks of the models that it is attached to, when they are first called.

    A block whose attention a hook replaces or watches runs as it is: a graph cannot hold what may
    differ from call to call. Hooks around blocks do not matter.

    Args:
        backend: name of a torch.compile backend.
        autotune: let inductor try kernels, which takes minutes and pays on an accelerator only.
        accepts: whether blocks with these hooks may be compiled, where torch's own attention takes
            the place of the hooks'.
        tell: is told once why blocks are not compiled; by default a Python warning.
    """

    def __init__(
        self,
        *,
        backend: str = "inductor",
        autotune: bool = False,
        accepts: Callable[[BlockHooks], bool] = can_compile,
        tell: Tell | None = None,
    ) -> None:
        self._backend_name = backend
        self._autotune = autotune
        self._accepts = accepts
        self._tell = tell or warn
        self._backend: Backend | None = None
        self._compiled: dict[Hashable, Region] = {}
        self._attached: dict[nn.Module, list[nn.Module]] = {}
        self._causes: set[str] = set()
        self._graphs = self._eager_calls = 0
        self._seconds = 0.0
        self._failure = ""

    def attach(self, model: nn.Module) -> None:
        """Let a model's blocks be compiled from now on. Names of weights stay what they are.

        Raises:
            IncompatibleInputsError: for a model that is no Latte, or whose blocks something else
                has taken over; nothing is changed then.
        """
        if model in self._attached:
            return
        found = blocks_of(model)
        if any(FORWARD in vars(block) for block, _ in found):
            raise IncompatibleInputsError(
                "The blocks of this model are compiled already, or another tool calls them in its "
                "own way (offloading hooks do). Undo that first, or leave compiling out."
            )
        for block, take_apart in found:
            vars(block)[FORWARD] = partial(self._call, block, take_apart)
        pad_text(model, not self._failure)
        self._attached[model] = [block for block, _ in found]

    def detach(self, model: nn.Module) -> None:
        """Give a model its own blocks back; graphs are kept for the next time."""
        for block in self._attached.pop(model, []):
            vars(block).pop(FORWARD, None)
        pad_text(model, False)

    @contextmanager
    def attached(self, model: nn.Module) -> Generator[None]:
        """Compile a model's blocks for the calls inside a `with`, and no others."""
        self.attach(model)
        try:
            yield
        finally:
            self.detach(model)

    def report(self) -> CompileReport:
        """Return what was compiled so far."""
        return CompileReport(
            sizes=len(self._compiled),
            graphs=self._graphs,
            seconds=self._seconds,
            eager_calls=self._eager_calls,
            failure=self._failure,
        )

    def _call(
        self, block: nn.Module, take_apart: Callable[..., RegionCall], *arguments: Any
    ) -> Tensor:
        """Run a block: compiled where that can be done."""
        hooks = arguments[-2].hooks
        if not self._failure and self._accepts(hooks):
            if isinstance(arguments[0], Owed):  # is taken once, and what fails needs it again
                arguments = (settled(arguments[0], arguments[-2].kernels), *arguments[1:])
            made = self._try(take_apart(block, *arguments))
            if made is not None:
                return made
        elif not self._failure:
            self._warn_once(
                "A hook takes part in the attention of the blocks (attention broadcast, or a patch "
                "of the host), so they run uncompiled. Choose one of the two."
            )
        self._eager_calls += 1
        forward: Region = type(block).forward
        return forward(block, *arguments)

    def _try(self, call: RegionCall) -> Tensor | None:
        """Run a region compiled; None if it cannot be compiled, or what was compiled cannot run."""
        from torch._dynamo import maybe_mark_dynamic
        from torch._dynamo.exc import TorchDynamoException

        start, before = time.perf_counter(), self._graphs
        try:
            compiled = self._compiled.get(call.key) or self._compile(call)
            for tensor, axis in call.text:
                maybe_mark_dynamic(tensor, axis)
            made = compiled(*call.arguments)
        except RuntimeError as error:
            # an attention kernel that a graph chose may have no plan; blocks find another one
            if not isinstance(error, TorchDynamoException) and is_out_of_memory(error):
                raise
            self._give_up(error)
            return None
        if self._graphs > before:
            self._seconds += time.perf_counter() - start
        return made

    def _compile(self, call: RegionCall) -> Region:
        """Return the compiled region of a new kind or size."""
        import torch

        # torch keeps graphs with a function's code and gives up after eight of them, so that each
        # size gets code of its own.
        code = call.region.__code__.replace(co_name=f"{call.region.__name__}_{len(self._compiled)}")
        copied = types.FunctionType(code, call.region.__globals__)
        compiler: Any = torch
        compiled: Region = compiler.compile(
            copied, backend=self._count, fullgraph=True, dynamic=False
        )
        self._compiled[call.key] = compiled
        return compiled

    def _count(self, graph: Any, inputs: Any) -> Any:
        """Be the backend of torch.compile: count, and hand over."""
        if self._backend is None:
            self._backend = find_backend(self._backend_name, self._autotune)
        self._graphs += 1
        return self._backend(graph, inputs)

    def _give_up(self, error: Exception) -> None:
        """Remember and say why blocks run uncompiled from now on."""
        for model in self._attached:
            pad_text(model, False)
        cause = getattr(error, "inner_exception", None) or error
        self._failure = f"{type(cause).__name__}: {next(iter(str(cause).splitlines()), '')}"
        self._warn_once(
            "torch.compile failed, so the blocks run uncompiled: as correct, and less fast. "
            "Without a C++ compiler, install one or leave compiling out. "
            f"{self._failure}"
        )

    def _warn_once(self, cause: str) -> None:
        if cause not in self._causes:
            self._causes.add(cause)
            self._tell(cause)


def pad_text(model: nn.Module, is_padded: bool) -> None:
    """Let a model of text project it at a few lengths alone, or at any again."""
    if isinstance(model, LatteT2V):
        model.pads_text = is_padded


def warn(sentence: str) -> None:
    """Give a Python warning."""
    warnings.warn(sentence, stacklevel=2)


def find_backend(name: str, autotune: bool) -> Backend:
    """Return a backend of torch.compile by its name."""
    if name == "inductor":
        from torch import _inductor as inductor
        from torch._inductor.compile_fx import compile_fx

        options = inductor.list_mode_options(NO_GRAPHS) if autotune else None
        return partial(compile_fx, config_patches=options)
    from torch._dynamo.backends.registry import lookup_backend

    return lookup_backend(name)


def compile_model(
    model: nn.Module, *, backend: str = "inductor", autotune: bool = False
) -> RegionalCompiler:
    """Compile the blocks of a LatteT2V or Latte when they are first called.

    Args:
        model: changed in place until `uncompile_model`; names of weights stay what they are.
        backend, autotune: see `RegionalCompiler`.

    Returns:
        What reports on it; the same one for a model that is compiled already.

    Raises:
        IncompatibleInputsError: for a model that is no Latte, or whose blocks something else has
            taken over.
    """
    known = compiler_of(model)
    if known is not None:
        return known
    compiler = RegionalCompiler(backend=backend, autotune=autotune)
    compiler.attach(model)
    return compiler


def uncompile_model(model: nn.Module) -> None:
    """Undo `compile_model`. Other models stay as they are."""
    known = compiler_of(model)
    if known is not None:
        known.detach(model)


def compiler_of(model: nn.Module) -> RegionalCompiler | None:
    """Return what compiles a model's blocks, or None."""
    for block, _ in blocks_of(model):
        call = vars(block).get(FORWARD)
        if isinstance(call, partial):
            owner: Any = getattr(call.func, "__self__", None)
            if isinstance(owner, RegionalCompiler):
                return owner
    return None
