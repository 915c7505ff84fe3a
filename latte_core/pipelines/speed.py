"""What both pipelines do to run their denoiser faster: kernels, compile, replay, fewer bits.

All but the last change what is computed by rounding alone. Step caches, which belong to a run, are
in `acceleration.settings`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import IncompatibleInputsError, InvalidInputError
from ..kernels.choice import KernelSet, KernelUse
from ..memory import KEEP_ALL, RESIDENT, STREAMED
from ..model.t2v.transformer import LatteT2V
from ..model.weights.fused_qkv import fuse_qkv, unfuse_qkv
from ..precision.settings import RunPrecision, apply_precision

if TYPE_CHECKING:
    from ..acceleration.compilation import RegionalCompiler
    from ..acceleration.graphs import GraphedDenoiser


class SpeedUps:
    """Of a pipeline whose `parts` have a transformer."""

    parts: Any
    graphs: GraphedDenoiser | None = None
    _precision = RunPrecision()

    @property
    def precision(self) -> RunPrecision:
        """How runs compute, and what was done to the model for that."""
        return self._precision

    def set_precision(self, name: str | None) -> None:
        """Have the transformer compute less exactly, and on many cards faster.

        Args:
            name: `fp8` or `int8` stores its wide layers in eight bits, from now on, with the LoRAs
                that are merged by then; `fp16-acc` sums products in float16 during runs. None
                changes nothing. On a card one layer is timed in eight bits and in its own type,
                with our kernels unless `use_kernels(False)` came before; `precision` says how
                products are made, and the log what was timed.

        Raises:
            InvalidInputError: for another name, or a model or device that it does not fit.
        """
        device = getattr(self.parts, "device", None)  # parts that the caller made have none
        self._precision = apply_precision(self.parts.transformer, name, device=device)

    def use_kernels(self, is_used: bool = True, *, is_timed: bool = True) -> None:
        """Let fused kernels take the place of torch's operators, as they may by default.

        They are used on NVIDIA cards with Triton, where a timing finds them faster. What was found
        is kept in the user's cache folder, or `LATTE_CACHE_DIR`, for the card and the versions of
        torch and Triton, so that later processes compute the same bits.

        Args:
            is_used: False uses torch's operators everywhere, but for layers that `set_precision`
                has given a product before.
            is_timed: False chooses by rule, the same in every process on every card of a kind.
        """
        chosen = KernelUse.AUTO if is_timed else KernelUse.FIXED
        self.parts.transformer.kernels = KernelSet(chosen if is_used else KernelUse.NEVER)

    def fuse_qkv(self, is_used: bool = True) -> None:
        """Compute queries, keys and values of self-attention in one product in place of three.

        Weights keep every bit, and are saved under the released names; videos differ by rounding.
        LoRAs, precision, compiling and graphs go with it, set before or after. All pipelines that
        share the transformer are changed. Class models are made with one layer for the three, so
        that nothing is changed there.

        Args:
            is_used: False takes them apart again.

        Raises:
            InvalidInputError: for layers that a host made or that are trained with adapters, and
                during a run for which the memory preset has moved the weights.
        """
        transformer = self.parts.transformer
        if not isinstance(transformer, LatteT2V):
            return
        if self.parts.stages.lends(transformer):
            raise InvalidInputError(
                "Queries, keys and values cannot be fused or taken apart while the memory preset "
                f"{self.parts.stages.plan.name} has the transformer on loan to the device. Do it "
                "before the run or after it."
            )
        (fuse_qkv if is_used else unfuse_qkv)(transformer)

    def compile(self, *, autotune: bool = False) -> RegionalCompiler:
        """Compile the transformer's blocks when they first run, and use them from then on.

        The first run of a size takes longer, by seconds to a minute; other prompts and seeds use
        the same graphs. LoRAs may be merged before and after. Where nothing can be compiled the
        blocks run as they are, after a warning. `uncompile_model` undoes it.

        Args:
            autotune: try kernels for minutes, which pays on an accelerator only.

        Returns:
            What reports on it.

        Raises:
            IncompatibleInputsError: if the memory preset streams the blocks.
        """
        if self.parts.stages.plan.transformer == STREAMED:
            raise IncompatibleInputsError(
                f"The memory preset {self.parts.stages.plan.name} streams the blocks of the "
                "transformer, which cannot be compiled then. Leave compiling out, or use the "
                "preset 6 or a larger one."
            )
        from ..acceleration.compilation import compile_model  # few runs compile

        return compile_model(self.parts.transformer, autotune=autotune)

    def use_cuda_graph(self, is_used: bool = True) -> None:
        """Replay the denoiser's steps as one CUDA graph; `graphs` reports on it.

        A graph is recorded in the first step of each size and length of prompt, and keeps the
        memory of a forward pass. Elsewhere than on CUDA the denoiser runs as usual, after a
        warning. Not together with a cache.

        Args:
            is_used: False gives all graphs back.

        Raises:
            IncompatibleInputsError: if the memory preset moves the transformer, whose place in
                memory a graph remembers.
        """
        if is_used and self.parts.stages.plan.transformer != RESIDENT:
            raise IncompatibleInputsError(
                f"The memory preset {self.parts.stages.plan.name} moves the transformer, but a "
                f"CUDA graph needs it to stay. Leave the graph out, or use the preset {KEEP_ALL}."
            )
        from ..acceleration.graphs import GraphedDenoiser  # few runs record graphs

        self.graphs = GraphedDenoiser(self.parts.transformer) if is_used else None

    @property
    def _denoiser(self) -> nn.Module:
        """What predicts noise in a run without a cache."""
        return self.parts.transformer if self.graphs is None else self.graphs

    def _check_cache_and_graphs(self) -> None:
        """Refuse a cache beside CUDA graphs.

        Raises:
            IncompatibleInputsError: saying what goes together.
        """
        if self.graphs is not None:
            raise IncompatibleInputsError(
                "A cache decides in each step what is computed, and a CUDA graph always repeats "
                "the same: they exclude each other. Leave one of them out; compiling goes with "
                "both."
            )
