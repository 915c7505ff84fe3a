"""Checks that Latte Compile compiles once for all prompts and LoRAs, and only where asked."""

from __future__ import annotations

import shutil
from typing import Any

import comfy.model_management
from host import Stage, expect, relative
from lora import starter as core_starter
from lora import write_file as write_lora
from tiny import frames, given_for, load

EAGER = "eager"  # traces as every backend does, and runs the graph as it is
LORA = "own_compiled.safetensors"


def module_of(model: Any) -> Any:
    """Return the transformer of a MODEL."""
    return model.model.diffusion_model


def compiled(stage: Stage, model: Any = None, backend: str = EAGER) -> Any:
    """Put Latte Compile behind a model, with a fresh start for its graphs."""
    part = stage.part("nodes.host.run.compile")
    model = stage.model if model is None else model
    vars(module_of(model)).pop(part.COMPILERS, None)
    return part.compile_blocks(model, backend=backend)


def report(stage: Stage, model: Any, backend: str = EAGER) -> Any:
    """Return what was compiled for a model."""
    known = vars(module_of(model))[stage.part("nodes.host.run.compile").COMPILERS]
    return known[False, backend].report()


def check_compiled_blocks_make_the_same_video(stage: Stage) -> str:
    if shutil.which("c++") is None and shutil.which("g++") is None:
        return "skipped: no C++ compiler"
    plain = stage.ksampler()
    model = compiled(stage, backend="inductor")
    made = stage.ksampler(model)
    found = report(stage, model, "inductor")
    expect(not found.failure, found)
    expect(found.graphs == 2 and found.recompiles == 0, found)
    expect(relative(made, plain) < 1e-4, relative(made, plain))
    long = stage.prompts("a red circle and a blue square moving up and then down again", "green")
    given = dict(zip(("positive", "negative"), long, strict=True))
    expect(relative(stage.ksampler(model, **given), stage.ksampler(**given)) < 1e-4)
    expect(report(stage, model, "inductor").graphs == 2, report(stage, model, "inductor"))
    return found.sentence()


def check_node_compiles_and_takes_it_off_again(stage: Stage) -> None:
    kind = stage.part("nodes.host.run.compile").KEY
    on = stage.call("LatteCompile", model=stage.model, mode="default")[0]
    expect(on.get_wrappers("apply_model", kind))
    off = stage.call("LatteCompile", model=on, mode="off")[0]
    expect(not off.get_wrappers("apply_model", kind))
    expect(not stage.model.get_wrappers("apply_model", kind))


def check_lora_and_new_prompts_need_no_new_graphs(stage: Stage) -> None:
    core = core_starter(stage)
    write_lora(stage, LORA, core)

    def with_lora(model: Any, strength: float) -> Any:
        return stage.call(
            "LoraLoaderModelOnly", model=model, lora_name=LORA, strength_model=strength
        )[0]

    first = compiled(stage)
    stage.ksampler(first)
    counts = [report(stage, first).graphs]
    expect(counts == [2], counts)
    lora = with_lora(stage.model, 0.8)
    expected = stage.ksampler(lora)
    again = stage.part("nodes.host.run.compile").compile_blocks(
        lora, backend=EAGER
    )  # the node re-run
    for prompt in ("red", "a green triangle moving left and a blue circle moving right"):
        positive, negative = stage.prompts(prompt)
        stage.ksampler(again, positive=positive, negative=negative)
    found = stage.ksampler(again)
    behind = stage.ksampler(with_lora(first, 0.8))
    for made in (found, behind):
        expect(relative(made, expected) < 1e-4, relative(made, expected))
    expect(relative(expected, stage.ksampler()) > 1e-3)
    now = report(stage, first)
    expect((now.graphs, now.recompiles, now.eager_calls, now.failure) == (2, 0, 0, ""), now)


def check_compiled_model_survives_unloading_and_copies(stage: Stage) -> None:
    plain = stage.ksampler()
    model = compiled(stage)
    stage.ksampler(model)
    comfy.model_management.unload_all_models()
    expect(relative(stage.ksampler(model.clone()), plain) < 1e-4)
    expect(report(stage, model).graphs == 2, report(stage, model))
    names = list(module_of(model).state_dict())
    expect(names == list(module_of(stage.model).state_dict()) and "forward" not in str(names))


def check_other_copies_of_the_model_stay_uncompiled(stage: Stage) -> None:
    model = compiled(stage)
    stage.ksampler(model)
    blocks = [*module_of(model).transformer_blocks, *module_of(model).temporal_transformer_blocks]
    expect(all("forward" not in vars(block) for block in blocks))
    before = report(stage, model)
    stage.ksampler()
    expect(report(stage, model) == before)


def check_attention_override_is_obeyed_uncompiled(stage: Stage) -> None:
    seen: list[int] = []

    def override(attend: Any, *given: Any, **about: Any) -> Any:
        seen.append(1)
        return attend(*given, **about)

    model = compiled(stage)
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    expect(relative(stage.ksampler(model), stage.ksampler()) < 1e-4)
    found = report(stage, model)
    expect(seen and found.graphs == 0 and found.eager_calls > 0, found)


def check_step_cache_and_compiled_blocks_go_together(stage: Stage) -> None:
    cached = stage.call("LatteAccelerate", model=stage.model, mode="balanced")[0]
    expected = stage.ksampler(cached, steps=8)
    model = compiled(stage, cached)
    expect(relative(stage.ksampler(model, steps=8), expected) < 1e-4)
    found = report(stage, model)
    expect((found.graphs, found.recompiles, found.eager_calls) == (2, 0, 0), found)


def check_weights_of_another_type_are_compiled_too(stage: Stage) -> str:
    model = stage.call("LatteModelLoader", model_name="starter", weight_dtype="bf16")[0]
    expected = stage.ksampler(model)
    made = stage.ksampler(compiled(stage, model))
    found = report(stage, model)
    expect(relative(made, expected) < 0.05, relative(made, expected))
    return found.sentence()


def check_class_models_are_compiled(stage: Stage) -> None:
    for variety in ("class", "two_attentions", "parallel"):
        model = load(stage, variety)
        given = {**given_for(stage, variety), "latent_image": frames(stage)}
        expected = stage.ksampler(model, **given)
        made = stage.ksampler(compiled(stage, model), **given)
        found = report(stage, model)
        expect(relative(made, expected) < 1e-4, variety, relative(made, expected))
        expect(found.graphs and not found.failure and not found.eager_calls, variety, found)


def check_stock_compile_node_and_ours_replace_each_other(stage: Stage) -> str:
    if "TorchCompileModel" not in stage.stock:
        return "skipped: this ComfyUI has no TorchCompileModel"
    kind = stage.part("nodes.host.run.compile").KEY
    ours = stage.call("LatteCompile", model=stage.model, mode="default")[0]
    stock = stage.call("TorchCompileModel", model=ours, backend="inductor")[0]
    expect(len(stock.get_wrappers("apply_model", kind)) == 1)
    both = stage.call("LatteCompile", model=stock, mode="default")[0]
    wrappers = both.get_wrappers("apply_model", kind)
    expect(len(wrappers) == 1 and type(wrappers[0]).__name__ == "CompiledCall", wrappers)
    return "replaced"
