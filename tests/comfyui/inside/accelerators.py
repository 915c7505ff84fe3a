"""Checks of every accelerator and of several at once, in what people do with a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from acceleration import accelerated
from compiled import compiled, report
from guidance import apart, follow
from host import Stage, expect, expect_error, relative, windows
from lora import starter as core_starter
from lora import write_file as write_lora
from precision import BOUNDS, formats, quantised

STEPS = 8
LORA = "every_accelerator.safetensors"
CACHES: dict[str, dict[str, Any]] = {
    "quality": {"mode": "quality"},
    "repeat": {"forecast": "0"},
    "parabola": {"mode": "quality", "forecast": "2"},
    "teacache": {"policy": "teacache", "threshold": 4.0},
    "first-block": {"policy": "first-block", "threshold": 0.5},
    "pab": {"policy": "pab"},
    "guidance": {"mode": "off", "guidance_cache": True},
    "steps and guidance": {"guidance_cache": True},
}
DECIDED_BY_ONE_WINDOW = ("teacache", "first-block")  # whose measure decides for all of a step
Make = Callable[[Stage, Any], Any]


def cache_of(given: dict[str, Any]) -> Make:
    """Return what puts Latte Accelerate behind a model."""
    return lambda stage, model: accelerated(stage, model, **given)


def precision_of(name: str) -> Make:
    """Return what puts Latte Precision behind a model."""
    return lambda stage, model: quantised(stage, name, model)


def together(name: str) -> Make:
    """Return what puts all three nodes behind a model."""
    return lambda stage, model: compiled(
        stage, accelerated(stage, quantised(stage, name, model), guidance_cache=True)
    )


def accelerators() -> dict[str, Make]:
    """Return every accelerator that this ComfyUI has."""
    found = {name: cache_of(given) for name, given in CACHES.items()}
    found |= {"compile": compiled}
    found |= {name: precision_of(name) for name in formats()}
    found |= {
        "compile and steps": lambda stage, model: compiled(stage, accelerated(stage, model)),
        "steps, then precision": lambda stage, model: quantised(
            stage, formats()[-1], accelerated(stage, model)
        ),
    }
    return found | {f"all with {name}": together(name) for name in formats()}


def allowed(name: str) -> float:
    """Return how far a result may be from the same one made in another way."""
    inexact = [BOUNDS[kind] for kind in formats() if kind in name or "precision" in name]
    return max(inexact, default=1e-4)


def runs(stage: Stage) -> dict[str, Callable[..., torch.Tensor]]:
    """Return both samplers."""
    return {"KSampler": stage.ksampler, "Latte Sampler": stage.latte_sampler}


def require_twice(run: Any, model: Any, *facts: Any, **changes: Any) -> torch.Tensor:
    """Run twice, expect the same finite bits, and return them."""
    first, second = (run(model, steps=STEPS, **changes) for _ in range(2))
    expect(bool(first.isfinite().all()), *facts, "not finite")
    expect(torch.equal(first, second), *facts, "two runs differ", relative(first, second))
    return first


def check_every_accelerator_works_and_repeats_its_bits(stage: Stage) -> dict[str, float]:
    errors: dict[str, float] = {}
    for sampler, run in runs(stage).items():
        plain = run(steps=STEPS)
        for name, make in accelerators().items():
            model = make(stage, stage.model)
            error = relative(require_twice(run, model, sampler, name), plain)
            errors[f"{sampler}: {name}"] = round(error, 6)
            if name == "compile":
                expect(error < 1e-4 and report(stage, model).graphs == 2, sampler, error)
            else:
                expect(error > 1e-4, sampler, name, error, "it changed nothing")
        expect(torch.equal(run(steps=STEPS), plain), sampler, "the model before the node changed")
    return errors


def check_every_accelerator_works_with_a_lora(stage: Stage) -> None:
    write_lora(stage, LORA, core_starter(stage))

    def with_lora(model: Any) -> Any:
        given = {"model": model, "lora_name": LORA, "strength_model": 0.7}
        return stage.call("LoraLoaderModelOnly", **given)[0]

    lora = with_lora(stage.model)
    for sampler, run in runs(stage).items():
        for name, make in accelerators().items():
            model = make(stage, stage.model)
            without = run(model, steps=STEPS)
            behind = require_twice(run, with_lora(model), sampler, name)
            before = require_twice(run, make(stage, lora), sampler, name)
            expect(relative(behind, without) > 1e-3, sampler, name, "the LoRA did nothing")
            error = relative(behind, before)
            expect(error < allowed(name), sampler, name, error, "the order counts")
            expect(torch.equal(run(model, steps=STEPS), without), sampler, name, "the LoRA stayed")


def check_every_accelerator_works_with_context_windows(stage: Stage) -> None:
    """Windows that share no frame are videos of their own, so the result is known."""
    noise = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    long = stage.latent(frames=10)
    for name, make in accelerators().items():
        model = make(stage, stage.model)
        found = follow(stage, windows(stage, model, 4, 0), noise)
        if name not in DECIDED_BY_ONE_WINDOW:
            expected = torch.cat([follow(stage, model, part) for part in noise.split(4)])
            expect(relative(found, expected) < 1e-4, name, relative(found, expected))
        for sampler, run in runs(stage).items():
            over = windows(stage, model, 4, 2)
            require_twice(run, over, sampler, name, latent_image=long)


def check_every_accelerator_leaves_nothing_after_cancel(stage: Stage) -> None:
    import comfy.model_management as management

    for sampler, run in runs(stage).items():
        for name, make in accelerators().items():
            model = make(stage, stage.model)
            expected = run(model, steps=STEPS)
            calls: list[int] = []

            def stop(apply: Any, given: dict[str, Any], calls: list[int] = calls) -> torch.Tensor:
                calls.append(1)
                if len(calls) == STEPS - 2:
                    management.interrupt_current_processing()
                    management.throw_exception_if_processing_interrupted()
                return apply(given["input"], given["timestep"], **given["c"])

            stopped = model.clone()
            stopped.set_model_unet_function_wrapper(stop)
            error = "InterruptProcessingException"
            expect_error(error, [], lambda run=run, model=stopped: run(model, steps=STEPS))
            found = run(model, steps=STEPS)
            expect(torch.equal(found, expected), sampler, name, relative(found, expected))


def check_every_accelerator_in_one_batch_or_two_calls(stage: Stage) -> None:
    for name, make in accelerators().items():
        model = make(stage, stage.model)
        batched = stage.ksampler(model, steps=STEPS)
        with apart():
            found = stage.ksampler(model, steps=STEPS)
        expect(relative(found, batched) < allowed(name), name, relative(found, batched))


def check_every_accelerator_on_whole_videos_and_batches_of_frames(stage: Stage) -> None:
    whole, pair = ({"samples": torch.zeros(count, 4, 4, 8, 8)} for count in (1, 2))
    for name, make in accelerators().items():
        model = make(stage, stage.model)
        flat = stage.latte_sampler(model, steps=STEPS)
        found = stage.latte_sampler(model, steps=STEPS, latent_image=whole)
        expect(relative(found[0].transpose(0, 1), flat) < 1e-5, name)
        both = require_twice(stage.ksampler, model, name, latent_image=pair)
        expect(both.shape == (2, 4, 4, 8, 8), name, both.shape)


def check_cached_compiled_blocks_need_no_new_graphs(stage: Stage) -> None:
    write_lora(stage, LORA, core_starter(stage))
    model = compiled(stage, accelerated(stage, guidance_cache=True))
    stage.ksampler(model, steps=STEPS)
    first = report(stage, model)
    given = {"model": model, "lora_name": LORA, "strength_model": 0.7}
    model = stage.call("LoraLoaderModelOnly", **given)[0]
    for prompt in ("red", "a green triangle moving left and a blue circle moving right"):
        positive, negative = stage.prompts(prompt)
        stage.ksampler(model, steps=STEPS, positive=positive, negative=negative)
    now = report(stage, model)
    expect((now.graphs, now.recompiles, now.failure) == (first.graphs, 0, ""), first, now)
    expect(now.eager_calls == 0, now)
