"""Checks that Latte Accelerate follows the lists that a model came with, where they fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from acceleration import Notes, accelerated, notes
from host import STARTER, Stage, expect, expect_error
from lora import starter as core_starter
from lora import write_file as write_lora
from precision import formats, quantised

STEPS = 20
FOLLOWS = "which came with the model"
SPEED_UPS = {"quality": 1.6, "balanced": 2.0, "fast": 3.3}
Run = Callable[[Any], torch.Tensor]


def file_of(stage: Stage, steps: int) -> Any:
    """Return the starter's lists for DDIM."""
    part = stage.part("latte_core.acceleration.schedule_file")
    return part.ScheduleFile.read(STARTER / "cache_schedules" / f"ddim-{steps}.json")


def unknown(stage: Stage, model: Any = None) -> Any:
    """Return a MODEL that came from nowhere, which the rule is for."""
    plain = (model or stage.model).clone()
    plain.remove_attachments(stage.part("nodes.host.model.origin").ORIGIN)
    return plain


def follows(heard: Notes) -> bool:
    """Whether a run said that it follows the model's own list."""
    return any(FOLLOWS in text for text in heard.texts)


def custom(stage: Stage, sampler: str, steps: int = STEPS, denoise: float = 1.0) -> Run:
    """Return a run of SamplerCustom at Latte's own noise levels."""

    def run(model: Any) -> torch.Tensor:
        levels = stage.call("LatteScheduler", model=model, steps=steps, denoise=denoise)[0]
        given = {"positive": stage.positive, "negative": stage.negative, "add_noise": True}
        given |= {"sampler": stage.call("KSamplerSelect", sampler_name=sampler)[0]}
        given |= {"noise_seed": 7, "cfg": 4.0, "latent_image": stage.latent()}
        return stage.call("SamplerCustom", model=model, sigmas=levels, **given)[0]["samples"]

    return run


def check_auto_follows_the_list_that_the_starter_came_with(stage: Stage) -> None:
    for steps in (STEPS, 50):
        lists = file_of(stage, steps)
        for mode, speed_up in SPEED_UPS.items():
            with notes() as heard:
                found = stage.latte_sampler(accelerated(stage, mode=mode), steps=steps)
            expect(follows(heard), steps, mode, heard.texts)
            full = len(lists.nearest(speed_up).full_steps)
            expect(heard.counts() == [(full, steps)], mode, heard.counts(), full)
            chosen = accelerated(stage, mode=mode, schedule=f"starter/ddim-{steps}.json")
            expect(torch.equal(found, stage.latte_sampler(chosen, steps=steps)), steps, mode)
            rule = stage.latte_sampler(accelerated(stage, unknown(stage), mode), steps=steps)
            expect(not torch.equal(found, rule), steps, mode, "the list is the rule's")


def check_stock_samplers_follow_the_list_at_latte_noise_levels(stage: Stage) -> None:
    """Of stock samplers, euler and ddim take DDIM's steps."""
    own, chosen = accelerated(stage), accelerated(stage, schedule=f"starter/ddim-{STEPS}.json")
    rule = accelerated(stage, unknown(stage))
    for sampler in ("euler", "ddim"):
        run = custom(stage, sampler)
        with notes() as heard:
            found = run(own)
        expect(follows(heard), sampler, heard.texts)
        full = len(file_of(stage, STEPS).nearest(2.0).full_steps)
        expect(heard.counts() == [(full, STEPS)], sampler, heard.counts())
        expect(torch.equal(found, run(chosen)), sampler, "by hand it is another list")
        expect(not torch.equal(found, run(rule)), sampler, "the list is the rule's")


def check_runs_that_the_list_does_not_fit_follow_the_rule(stage: Stage) -> None:
    own, rule = accelerated(stage), accelerated(stage, unknown(stage))
    latent = {"samples": torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))}
    part = {"steps": STEPS, "denoise": 0.6, "latent_image": latent}
    runs: dict[str, Run] = {
        "other steps": lambda model: stage.latte_sampler(model, steps=STEPS + 1),
        "ddpm": lambda model: stage.latte_sampler(model, steps=STEPS, method="ddpm"),
        "a part": lambda model: stage.latte_sampler(model, **part),
        "string": lambda model: stage.latte_sampler(model, step_string=str(STEPS)),
        "dpmpp_2m": custom(stage, "dpmpp_2m"),
        "part of custom": custom(stage, "euler", denoise=0.5),
    }
    for scheduler in ("normal", "ddim_uniform", "karras", "simple"):
        runs[scheduler] = lambda model, name=scheduler: stage.ksampler(
            model, steps=STEPS, sampler_name="ddim", scheduler=name
        )
    for name, run in runs.items():
        with notes() as heard:
            found = run(own)
        expect(not follows(heard) and len(heard.counts()) == 1, name, heard.texts)
        expect(torch.equal(found, run(rule)), name, "it is not the rule's")


def check_the_list_stays_with_a_patched_model(stage: Stage) -> None:
    name = "shipped.safetensors"
    write_lora(stage, name, core_starter(stage))

    def with_lora(model: Any) -> Any:
        given = {"model": model, "lora_name": name, "strength_model": 0.7}
        return stage.call("LoraLoaderModelOnly", **given)[0]

    makers = {"LoRA": with_lora, "nothing": lambda model: model}
    makers |= {kind: lambda model, kind=kind: quantised(stage, kind, model) for kind in formats()}
    chosen = f"starter/ddim-{STEPS}.json"
    for kind, make in makers.items():
        for further in ({}, {"forecast": "0"}, {"guidance_cache": True}):
            model = make(stage.model)
            with notes() as heard:
                found = stage.latte_sampler(accelerated(stage, model, **further), steps=STEPS)
            expect(follows(heard), kind, further, heard.texts)
            by_hand = accelerated(stage, model, schedule=chosen, **further)
            same = torch.equal(found, stage.latte_sampler(by_hand, steps=STEPS))
            expect(same, kind, further, "by hand it is another list")
    for further in ({"policy": "first-block", "threshold": 0.5}, {"policy": "pab"}):
        with notes() as heard:
            stage.latte_sampler(accelerated(stage, **further), steps=STEPS)
        expect(not follows(heard) and len(heard.counts()) == 1, further, heard.texts)


def check_lists_of_folders_in_models_diffusers(stage: Stage) -> None:
    """A folder's own list, one made for other weights, a damaged one, and none."""
    import folder_paths

    folder = Path(folder_paths.models_dir) / "diffusers" / "Latte-with-lists"
    shutil.copytree(STARTER, folder, dirs_exist_ok=True)
    file = folder / "cache_schedules" / f"ddim-{STEPS}.json"
    original = file.read_text(encoding="utf-8")

    def run() -> Notes:
        given = {"model_name": f"{folder.name}/", "weight_dtype": "fp32"}
        model = accelerated(stage, stage.call("LatteModelLoader", **given)[0])
        with notes() as heard:
            stage.latte_sampler(model, steps=STEPS)
        return heard

    expect(follows(run()))
    file.write_text(json.dumps({**json.loads(original), "digest": "00"}), encoding="utf-8")
    texts = run().texts
    expect(any("other weights" in text for text in texts), texts)
    expect(not any(FOLLOWS in text for text in texts), texts)
    file.write_text(json.dumps({**json.loads(original), "digest": ""}), encoding="utf-8")
    expect(follows(run()), "a list that names no weights")
    file.write_text("{}", encoding="utf-8")
    expect_error("CorruptCheckpointError", [file.name, "format"], run)
    file.unlink()
    heard = run()
    expect(not follows(heard) and len(heard.counts()) == 1, heard.texts)
    shutil.rmtree(folder)
