"""Latte's blocks compiled inside ComfyUI, for the calls of the MODEL that asks for it alone.

The blocks belong to a module that all copies of a MODEL share, so they are compiled for the length
of one call, in an APPLY_MODEL wrapper under the key that ComfyUI's TorchCompileModel uses: the
last of both nodes wins. Graphs belong to the module, as its weights do, and outlive a change of
LoRA, prompt or node (docs/comfyui.md 4, 5; ComfyUI issue 6415).
"""

from __future__ import annotations

import inspect
import logging
from typing import Any

import comfy.patcher_extension
from torch import nn

from ....latte_core.acceleration.compilation import RegionalCompiler
from ....latte_core.model.attention import BlockHooks
from ..model.hooks import HostAttention

KEY = "torch.compile"  # comfy_api.torch_helpers.torch_compile.COMPILE_KEY
COMPILERS = "latte_compilers"

logger = logging.getLogger("latte")


def compile_blocks(
    model: Any, *, autotune: bool = False, is_on: bool = True, backend: str = "inductor"
) -> Any:
    """Return a copy of a MODEL whose blocks are compiled when it runs.

    Args:
        model: a Latte MODEL.
        autotune: try more kernels.
        is_on: False takes an earlier compilation off.
        backend: of torch.compile.
    """
    kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    patched = clone_with_plain_weights(model) if is_on else model.clone()
    patched.remove_wrappers_with_key(kind, KEY)
    forget_failures(patched.model.diffusion_model)
    if is_on:
        patched.add_wrapper_with_key(kind, KEY, CompiledCall(autotune, backend))
    return patched


def clone_with_plain_weights(model: Any) -> Any:
    """Clone a MODEL without dynamic memory, under which weights arrive inside a layer's call."""
    knows = "disable_dynamic" in inspect.signature(model.clone).parameters
    return model.clone(disable_dynamic=True) if knows else model.clone()


class CompiledCall:
    """Compiles the blocks for one call of the model; holds settings, no state.

    Args:
        autotune, backend: see `RegionalCompiler`.
    """

    def __init__(self, autotune: bool, backend: str) -> None:
        self._autotune = autotune
        self._backend = backend

    def __call__(self, executor: Any, *given: Any, **named: Any) -> Any:
        """Call the model with compiled blocks."""
        module = executor.class_obj.diffusion_model
        compiler = compiler_for(module, self._autotune, self._backend)
        before = compiler.report().graphs
        with compiler.attached(module):
            made = executor(*given, **named)
        report = compiler.report()
        if report.graphs > before:
            logger.info("Latte Compile: %s", report.sentence())
        return made


def compiler_for(module: nn.Module, autotune: bool, backend: str) -> RegionalCompiler:
    """Return what compiles a transformer's blocks, made when it is first asked for."""
    known: dict[tuple[bool, str], RegionalCompiler] = vars(module).setdefault(COMPILERS, {})
    if (autotune, backend) not in known:
        # ComfyUI patches weights that need no gradients, and a graph is made for one kind of them
        module.requires_grad_(False)
        known[autotune, backend] = RegionalCompiler(
            backend=backend, autotune=autotune, accepts=is_replaceable, tell=tell
        )
    return known[autotune, backend]


def forget_failures(module: nn.Module) -> None:
    """Let what could not be compiled be tried again, maybe with more memory."""
    known: dict[tuple[bool, str], RegionalCompiler] = vars(module).get(COMPILERS, {})
    for settings in [key for key, compiler in known.items() if compiler.report().failure]:
        del known[settings]


def is_replaceable(hooks: BlockHooks) -> bool:
    """Whether torch's own attention does what the hooks of a call would."""
    is_hosts = isinstance(hooks.attention, HostAttention)
    return is_hosts and hooks.leaves_frames and hooks.attn_output_hook is None


def tell(sentence: str) -> None:
    """Log why blocks are not compiled."""
    logger.warning("Latte Compile: %s", sentence)
