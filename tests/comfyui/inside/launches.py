"""Checks that a call inside ComfyUI launches what one of the core does, and repeats no work."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import comfy.ops
import comfy.patcher_extension
import comfy.samplers
import torch
from host import PACK, STARTER, Stage, expect, relative
from lora import starter as core_starter
from lora import write_file as write_lora
from tiny import label
from tiny import load as load_tiny
from torch import nn

LORA = "own_hooked.safetensors"
KEPT = "latte_kept"
FRAMES, CELLS = 16, 64
NEAR = 1e-5


def counting(stage: Stage) -> Any:
    """Import benchmarks/op_count.py over this pack's core."""
    core = f"{stage.pack.__name__}.latte_core"
    names = [name for name in sys.modules if name == core or name.startswith(f"{core}.")]
    sys.modules.update({name.replace(core, "latte_core", 1): sys.modules[name] for name in names})
    spec = importlib.util.spec_from_file_location("op_count", PACK / "benchmarks" / "op_count.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(PACK / "benchmarks"))  # some of its names are those of checks too
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(PACK / "benchmarks"))
    return module


def full_size(stage: Stage, script: Any, *, kernels: bool) -> Any:
    """Return the transformer of Latte-1 as ComfyUI builds it, without memory."""
    made_by = {"dtype": script.DTYPE, "device": "meta", "operations": comfy.ops.disable_weight_init}
    model = stage.part("nodes.host.model.t2v").LatteTransformer(**script.LATTE_1, **made_by)
    choice = stage.part("latte_core.kernels.choice")
    model.kernels.use = choice.KernelUse.ALWAYS if kernels else choice.KernelUse.NEVER
    return model


def host_call(stage: Stage, model: Any, script: Any) -> Callable[[], Any]:
    """Return a call as a guided step makes it, with what its run shares prepared."""
    part = stage.part("nodes.host.model.conds")
    text = torch.empty(1, 20, script.TEXT_WIDTH, dtype=script.DTYPE, device="meta")
    kept = [part.Kept(), part.Kept()]
    conds = [part.TextCond(text, one) for one in kept]
    context = conds[0].concat(conds[1:])
    given = {"context": context, KEPT: part.KeptCond(kept[0]).concat([part.KeptCond(kept[1])])}
    x = torch.empty(2 * FRAMES, 4, CELLS, CELLS, dtype=script.DTYPE, device="meta")
    times = torch.zeros(2 * FRAMES, device="meta")
    options = {"cond_or_uncond": [1, 0]}

    def call() -> Any:
        return model(x, times, transformer_options=options, **given)

    script.count(call)
    return call


@contextmanager
def attention_of_a_card(stage: Stage) -> Any:
    """Let ComfyUI attend as it does on a card, with torch's fused kernel, while it lasts."""
    attention = stage.part("nodes.host.model.hooks").attention
    before = attention.optimized_attention
    attention.optimized_attention = attention.attention_pytorch
    try:
        yield
    finally:
        attention.optimized_attention = before


def check_full_size_calls_launch_what_the_core_does(stage: Stage) -> str:
    script = counting(stage)
    said = []
    for kernels in (False, True):
        core = script.count_ours(20, kernels=kernels)
        with attention_of_a_card(stage):
            host = script.count(host_call(stage, full_size(stage, script, kernels=kernels), script))
        found, expected = host.counts(), core.counts()
        said.append(f"{found.launches} for {expected.launches}")
        more = {key: count for key, count in (host.launches - core.launches).items() if count}
        expect(found.launches <= 1.05 * expected.launches, said, more)
        expect(found.gemms == expected.gemms, found, expected)
        expect(found.other_gb <= 1.05 * expected.other_gb, found, expected)
        expect(host.launches["linear_gelu"] == 56 * kernels, host.launches)
        expect(host.launches["attend_across_frames"] == 28 * kernels, host.launches)
    return ", ".join(said)


@contextmanager
def counted(stage: Stage) -> Any:
    """Count the preparations of text and places while it lasts."""
    seen: Counter[str] = Counter()
    latte = stage.part("latte_core.model.t2v.transformer")
    whole = stage.part("latte_core.model.latte.transformer")
    before = latte.LatteT2V.project_text, latte.make_tables, whole.Latte._spatial_table

    def noting(name: str, inner: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            seen[name] += 1
            return inner(*given, **named)

        return call

    latte.LatteT2V.project_text = noting("text", before[0])
    latte.make_tables = noting("places", before[1])
    whole.Latte._spatial_table = noting("class places", before[2])
    try:
        yield seen
    finally:
        latte.LatteT2V.project_text, latte.make_tables, whole.Latte._spatial_table = before


def check_text_and_places_are_prepared_once_in_a_run(stage: Stage) -> None:
    with counted(stage) as seen:
        stage.ksampler(steps=4)
        expect(seen == {"text": 1, "places": 1}, seen)
        stage.ksampler(steps=4, sampler_name="heun", seed=2)
        expect(seen == {"text": 2, "places": 2}, seen)
        stage.latte_sampler(steps=4)
        expect(seen == {"text": 3, "places": 3}, seen)
        stage.ksampler(steps=4, cfg=1.0)
        expect(seen == {"text": 4, "places": 4}, seen)
        model = load_tiny(stage)
        stage.ksampler(model, latent_image=stage.latent(frames=3), **label(stage))
        expect(seen["class places"] == 1, seen)


def check_nothing_of_a_run_stays_behind(stage: Stage) -> None:
    import gc

    part = stage.part("nodes.host.model.conds")
    stage.ksampler(steps=2)
    gc.collect()
    left = [one for one in gc.get_objects() if type(one) is part.Kept]
    expect(not left, len(left))
    held = vars(stage.model.model.diffusion_model)
    expect(not [name for name in held if "kept" in name], list(held))


def check_text_that_is_changed_on_the_way_is_seen(stage: Stage) -> None:
    other = stage.prompts("a green triangle moving left")[0][0][0]
    calls: list[torch.Tensor] = []

    def wrapper(executor: Any, *given: Any, **named: Any) -> Any:
        x, time, context, *rest = given
        calls.append(context)
        if len(calls) > 1:
            context = other.to(context)[:, :1].expand(context.shape) * len(calls)
        return executor(x, time, context, *rest, **named)

    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    model = stage.model.clone()
    model.add_wrapper_with_key(kind, "test", wrapper)
    with counted(stage) as seen:
        found = stage.ksampler(model, steps=3)
    expect(seen["text"] == 3 and calls[0] is calls[1] is calls[2], seen)
    expect(relative(found, stage.ksampler(steps=3)) > 1e-3)
    calls.clear()
    with everything_made_anew(stage):
        expect(relative(found, stage.ksampler(model, steps=3)) < 1e-4)


@contextmanager
def everything_made_anew(stage: Stage) -> Any:
    """Keep nothing in runs while it lasts."""
    part = stage.part("nodes.host.model.native")
    before = part.kept_of
    part.kept_of = lambda given, _: given.pop(KEPT, None) and None
    try:
        yield
    finally:
        part.kept_of = before


def check_weights_that_hooks_change_on_the_way_are_seen(stage: Stage) -> str:
    if "CreateHookLora" not in stage.stock:
        return "skipped: this ComfyUI has no hooks"
    write_lora(stage, LORA, core_starter(stage))
    hooks = stage.call("CreateHookLora", lora_name=LORA, strength_model=1.0, strength_clip=0.0)[0]
    frames = stage.call("CreateHookKeyframe", strength_mult=0.0, start_percent=0.0)[0]
    frames = stage.call(
        "CreateHookKeyframe", strength_mult=1.0, start_percent=0.4, prev_hook_kf=frames
    )[0]
    hooks = stage.call("SetHookKeyframes", hooks=hooks, hook_kf=frames)[0]
    set_to = {"strength": 1.0, "set_cond_area": "default", "hooks": hooks}
    given = {
        "positive": stage.call("ConditioningSetProperties", cond_NEW=stage.positive, **set_to)[0],
        "negative": stage.call("ConditioningSetProperties", cond_NEW=stage.negative, **set_to)[0],
    }
    found = stage.ksampler(steps=6, **given)
    with everything_made_anew(stage):
        expected = stage.ksampler(steps=6, **given)
    expect(relative(found, expected) < NEAR, relative(found, expected))
    plain = stage.ksampler(steps=6)
    expect(relative(found, plain) > 1e-4, "the hook changed nothing", relative(found, plain))
    return ""


def check_a_prompt_for_each_frame_moves_with_context_windows(stage: Stage) -> None:
    from host import windows

    model = windows(stage, stage.model, 4, 2)
    text = torch.cat(
        [stage.positive[0][0]] * 4
        + [stage.negative[0][0][:, :1].expand_as(stage.positive[0][0])] * 4
    )
    given = {"positive": [[text, {}]], "latent_image": stage.latent(frames=8)}
    found = stage.ksampler(model, **given)
    with everything_made_anew(stage):
        expect(relative(found, stage.ksampler(model, **given)) < NEAR)


def check_layers_lend_weights_only_as_they_are(stage: Stage) -> None:
    lend = stage.part("nodes.host.model.kernel_weights").host_weights
    tokens = torch.zeros(1, 2, 4)

    def lends(layer: nn.Module, given: torch.Tensor = tokens) -> bool:
        with lend(layer, given) as lent:
            return lent is not None

    for space in (comfy.ops.disable_weight_init, comfy.ops.manual_cast):
        layer = space.Linear(4, 8)
        expect(lends(layer))
        with lend(layer, tokens) as lent:
            expect(lent[0] is layer.weight and lent[1] is layer.bias)
        expect(not lends(layer, tokens.half()), "another type")
        expect(not lends(layer, tokens.to("meta")), "another device")
        expect(not lends(space.Linear(4, 8, bias=False)), "no bias")
        expect(not lends(space.Linear(4, 8, dtype=torch.float8_e4m3fn)), "eight bits")
        layer.weight_function = [lambda weight: weight * 2]
        expect(not lends(layer), "patched when called")
        layer.weight_function = []
        handle = layer.register_forward_pre_hook(lambda *_: None)
        expect(not lends(layer), "watched")
        handle.remove()
        layer.forward = layer.forward
        expect(not lends(layer), "called in another way")

    class Unpacking(comfy.ops.manual_cast.Linear):
        """A layer of another pack, as GGUF has them."""

    expect(not lends(Unpacking(4, 8)), "of another pack")
    expect(not lends(nn.Linear(4, 8)), "of torch, which no loader here makes")


def check_only_exact_attention_leaves_frames_to_the_model(stage: Stage) -> None:
    hooks = stage.part("nodes.host.model.hooks")
    attention = hooks.attention
    expect(hooks.HostAttention({}).leaves_frames)
    expect(not hooks.HostAttention({hooks.OVERRIDE: lambda *_: None}).leaves_frames)
    before = attention.optimized_attention
    attention.optimized_attention = lambda *given, **named: before(*given, **named)
    try:
        expect(not hooks.HostAttention({}).leaves_frames, "a global replacement")
        seen: list[str] = []
        plain = attention.optimized_attention

        def noting(*given: Any, **named: Any) -> Any:
            seen.append(named["transformer_options"]["block_type"])
            return plain(*given, **named)

        attention.optimized_attention = noting
        stage.ksampler(steps=1)
        expect(set(seen) == {"spatial", "cross", "temporal"}, seen)
    finally:
        attention.optimized_attention = before


def check_attention_broadcast_still_sees_attention_across_frames(stage: Stage) -> None:
    config = json.loads((STARTER / "transformer" / "config.json").read_text(encoding="utf-8"))
    pab = stage.part("latte_core.acceleration.pab")
    hooks = stage.part("nodes.host.model.hooks").make_hooks({}, (4, 4, 4), config["num_layers"])
    expect(hooks.leaves_frames)
    run = pab.AttentionBroadcast(pab.Broadcast(), num_steps=4)
    expect(not run.hooks(hooks, timestep=500.0, ids=(0,)).leaves_frames)


def check_triton_that_does_not_import_ends_no_run(stage: Stage) -> None:
    import warnings

    module = stage.model.model.diffusion_model
    choice = stage.part("latte_core.kernels.choice")
    broken = type("Broken", (), {"find_spec": staticmethod(refuse_triton)})
    kept = {name: sys.modules.pop(name) for name in [*sys.modules] if name.startswith("triton")}
    programs = f"{choice.__name__.removesuffix('.choice')}.programs"
    kept |= {programs: sys.modules.pop(programs)} if programs in sys.modules else {}
    expected = stage.ksampler()
    before = module.kernels
    module.kernels = seeing_kernels(stage, before.weights_of)
    sys.meta_path.insert(0, broken)
    capability = torch.cuda.get_device_capability
    torch.cuda.get_device_capability = lambda _: (9, 0)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            expect(torch.equal(stage.ksampler(), expected))
        told = [str(one.message) for one in caught if "Triton is installed" in str(one.message)]
        expect(len(told) == 1, [str(one.message) for one in caught])
    finally:
        torch.cuda.get_device_capability = capability
        sys.meta_path.remove(broken)
        module.kernels = before
        sys.modules.update(kept)


def seeing_kernels(stage: Stage, weights_of: Any) -> Any:
    """Return kernels that take the CPU for a card, and find out what it can do."""
    base = stage.part("latte_core.kernels.choice").KernelSet

    class Seeing(base):
        def is_active(self, tokens: torch.Tensor) -> bool:
            return self._can_run(tokens.device)

    return Seeing(weights_of=weights_of)


def refuse_triton(name: str, *_: Any) -> None:
    """Raise what Windows does where a library of Triton is missing."""
    if name == "triton":
        raise ImportError("DLL load failed while importing libtriton")


def check_cached_runs_look_at_no_noise_level_of_samplers_that_count(stage: Stage) -> None:
    placing = stage.part("nodes.host.run.step_of_call")
    acceleration = stage.part("nodes.host.run.acceleration")
    reads: list[float] = []
    plain, known = placing.Place.move_to, acceleration.ONE_CALL_A_STEP

    def noting(self: Any, sigma: float) -> None:
        reads.append(sigma)
        plain(self, sigma)

    runs = [({}, sampler) for sampler in placing.ONE_CALL_A_STEP]
    runs += [({"policy": "pab"}, "euler"), ({"guidance_cache": True}, "euler")]
    placing.Place.move_to = noting
    try:
        for given, sampler in runs:
            if sampler not in comfy.samplers.SAMPLER_NAMES:
                continue
            model = stage.call("LatteAccelerate", model=stage.model, mode="balanced", **given)[0]
            reads.clear()
            made = stage.ksampler(model, sampler_name=sampler, steps=4)
            expect(not reads, given, sampler, reads)
            acceleration.ONE_CALL_A_STEP = ()
            looked = stage.ksampler(model, sampler_name=sampler, steps=4)
            acceleration.ONE_CALL_A_STEP = known
            expect(len(reads) >= 4, given, sampler, len(reads))
            expect(torch.equal(made, looked), given, sampler)
        reads.clear()
        stage.latte_sampler(model, steps=4)
        expect(not reads, "Latte Sampler", reads)
        stage.ksampler(model, steps=4, sampler_name="heun")
        expect(reads, "heun calls the model twice in a step")
    finally:
        placing.Place.move_to, acceleration.ONE_CALL_A_STEP = plain, known
