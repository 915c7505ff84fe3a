"""ComfyUI's per-run patches as the hooks that latte_core's transformers take."""

from __future__ import annotations

from typing import Any

import comfy.patcher_extension
import torch
from comfy.ldm.modules import attention
from torch import Tensor

from ....latte_core.errors import InvalidInputError
from ....latte_core.model.attention import BlockHooks
from ..base.layout import unfold

VARIANCE_COLLECTOR = "latte_variance"
TEMPORAL_ATTENTION = "latte_temporal_attention"
RUN_CACHE = "latte_run_cache"
OVERRIDE = "optimized_attention_override"
# Kernels that compute what torch's own attention does; others were chosen for being different.
EXACT = ("basic", "split", "sub_quad", "pytorch", "xformers")


def run_with_wrappers(module: Any, x: Tensor, *given: Any, **kwargs: Any) -> Tensor:
    """Call `module.predict` behind the wrappers that a run puts around the diffusion model.

    Args:
        module: the transformer.
        x: latents.
        given: timestep, context, transformer_options; the last stays last, where caches look.
    """
    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    wrappers = comfy.patcher_extension.get_all_wrappers(kind, given[-1])
    return comfy.patcher_extension.WrapperExecutor.new_class_executor(
        module.predict, module, wrappers
    ).execute(x, *given, **kwargs)


def make_hooks(
    options: dict[str, Any], grid: tuple[int, int, int], total_blocks: int
) -> BlockHooks:
    """Bind one call's `transformer_options` to attention, block and output hooks.

    Args:
        options: as ComfyUI hands them to the model; never written to.
        grid: frames, rows and columns of tokens.
        total_blocks: pairs of blocks, or blocks where they are not paired.
    """
    common = {**options, "total_blocks": total_blocks, "grid_sizes": grid}
    patches = options.get("patches", {})
    replaced = options.get("patches_replace", {}).get("dit", {})
    return BlockHooks(
        attention=HostAttention(common),
        run_block=replace_blocks(replaced, common) if replaced else None,
        attn_output_hook=patch_outputs(patches.get("attn1_output_patch", []), common),
    )


def with_cache(
    hooks: BlockHooks, options: dict[str, Any], timestep: Tensor, videos: int
) -> BlockHooks:
    """Put the run's step cache, if it has one, around the hooks of a call.

    The cache comes outermost: blocks that run, run through the patches; skipped ones call none.

    Args:
        hooks: see `make_hooks`.
        options: `transformer_options` of the call.
        timestep: of the call.
        videos: rows of the transformer's batch.
    """
    cache = options.get(RUN_CACHE)
    if cache is None:
        return hooks
    return cache.hooks(hooks, timestep=timestep, videos=videos, options=options)


class HostAttention:
    """Sends attention through ComfyUI's choice of kernel and through its override.

    Attention across frames, where every place is a small problem of its own, is the transformer's
    unless ComfyUI was told to attend in another way than torch does.

    Args:
        options: `transformer_options` of the call.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        exact = [getattr(attention, f"attention_{name}", None) for name in EXACT]
        is_exact = attention.optimized_attention in exact
        self.leaves_frames = is_exact and not options.get(OVERRIDE)

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **about: Any
    ) -> Tensor:
        told = {
            **self.options,
            "block_index": about.get("block_index", 0),
            "block_type": about.get("kind", "spatial"),
        }
        return attention.optimized_attention(q, k, v, heads, mask=mask, transformer_options=told)


def replace_blocks(replaced: dict[Any, Any], options: dict[str, Any]) -> Any:
    """Run `patches_replace["dit"][("double_block", i)]` around the pair of blocks i."""

    def run_block(index: int, fn: Any, hidden: Tensor, context: Tensor, vec: Tensor) -> Tensor:
        patch = replaced.get(("double_block", index))
        if patch is None:
            return fn(hidden, context, vec)

        def original(args: dict[str, Any]) -> dict[str, Any]:
            image = fn(args["img"], args.get("txt", context), args.get("vec", vec))
            return {"img": image, "txt": args.get("txt", context)}

        told = {**options, "block_index": index, "block_type": "double"}
        given = {
            "img": hidden,
            "txt": context,
            "vec": vec,
            "pe": None,
            "transformer_options": told,
        }
        return patch(given, {"original_block": original})["img"]

    return run_block


def patch_outputs(patches: list[Any], options: dict[str, Any]) -> Any:
    """Chain `attn1_output_patch` functions; they may write into what they get."""
    if not patches:
        return None

    def hook(index: int, heads: int, attended: Tensor) -> Tensor:
        told = {**options, "block_index": index, "block_type": "spatial", "n_heads": heads}
        attended = attended.clone(memory_format=torch.contiguous_format)
        for patch in patches:
            attended = patch(attended, told)
        return attended

    return hook


class VarianceCollector:
    """Receives the variance channels that the model's output leaves out, for one run.

    Put into a run's `transformer_options` under `VARIANCE_COLLECTOR`; copies of that dict keep the
    same object.
    """

    def __init__(self) -> None:
        self._values: list[tuple[list[int], Tensor]] = []

    def put(self, cond_or_uncond: list[int] | None, variance: Tensor) -> None:
        """Keep what one model call dropped."""
        self._values.append((list(cond_or_uncond or [0]), variance))

    def take(self) -> list[tuple[list[int], Tensor]]:
        """Return what came since the last time.

        Raises:
            InvalidInputError: if a cache node answered in the model's place.
        """
        values, self._values = self._values, []
        if not values:
            raise InvalidInputError(
                "This sampler needs the variance that Latte predicts, but the model was not "
                "called in this step. A cache node (EasyCache, LazyCache) skips calls: remove it "
                "or use a sampler without learned variance (method ddim)."
            )
        return values


def noise_of(output: Tensor, x: Tensor, transformer_options: dict[str, Any]) -> Tensor:
    """Return the predicted noise in the layout of `x`; the run's collector keeps the variance.

    Args:
        output: (videos, 8, F, h, w), or 4 channels where no variance is learned.
        x: what the transformer was called with.
        transformer_options: of the call.
    """
    noise, variance = output[:, : x.shape[1]], output[:, x.shape[1] :]
    collector = transformer_options.get(VARIANCE_COLLECTOR)
    if collector is not None:
        collector.put(transformer_options.get("cond_or_uncond"), unfold(variance, x.ndim))
    return unfold(noise, x.ndim)
