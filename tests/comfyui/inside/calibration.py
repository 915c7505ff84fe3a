"""Checks that Latte Calibrate measures what latte_core measures, and writes what it follows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import folder_paths
import torch
from acceleration import notes
from host import STARTER, Stage, expect, expect_error, relative
from tiny import given_for, load

STEPS = 8
PROMPT = "a blue square moving up"
FOLDER = Path(folder_paths.models_dir) / "latte_schedules"


def calibrated(stage: Stage, name: str, model: Any = None, **changes: Any) -> tuple[Any, ...]:
    """Run Latte Calibrate on the prompts of the stage; return model, file name and report."""
    inputs = {
        "model": model or stage.model,
        "positive": stage.positive,
        "negative": stage.negative,
        "latent_image": stage.latent(),
        "seed": 7,
        "steps": STEPS,
        "cfg": 4.0,
        "file_name": name,
    }
    out = stage.call("LatteCalibrate", **{**inputs, **changes})
    expect(isinstance(out, dict), "an output node shows something")
    expect(out["ui"]["text"] == (out["result"][2],), out["ui"])
    return out["result"]


@contextmanager
def measured_by(module: Any) -> Iterator[list[dict[tuple[int, int], float]]]:
    """Keep the edges that a module measures."""
    original, kept = module.measure_edges, []

    def measure(*given: Any, **named: Any) -> dict[tuple[int, int], float]:
        kept.append(original(*given, **named))
        return kept[-1]

    module.measure_edges = measure
    try:
        yield kept
    finally:
        module.measure_edges = original


def core_calibration(stage: Stage, **changes: Any) -> tuple[Any, dict[tuple[int, int], float]]:
    """Calibrate as the command line does: the file, and the edges."""
    core = stage.part("latte_core.pipelines.calibration.calibration")
    pipeline = stage.part("latte_core.pipelines.text.pipeline").Pipeline.from_pretrained(STARTER)
    size = {"num_frames": 4, "height": 64, "width": 64}
    plan = stage.part("latte_core.acceleration.calibrate").CalibrationPlan(**changes)
    run = core.CalibrationRun(steps=str(STEPS), guidance_scale=4.0, seed=7, plan=plan, **size)
    subjects = stage.part("latte_core.pipelines.calibration.subjects")
    with measured_by(core) as kept:
        made = subjects.calibrate_text(pipeline, [PROMPT], run, negative_prompt="red")
    return made, kept[0]


def check_calibration_equals_latte_core(stage: Stage) -> dict[str, float]:
    host, file = (
        stage.part("nodes.host.run.calibration"),
        stage.part("latte_core.acceleration.schedule_file"),
    )
    worst: dict[str, float] = {}
    for changes in ({}, {"forecast": 0, "max_skip": 3}):
        expected, edges = core_calibration(stage, **changes)
        with measured_by(host) as kept:
            _, name, report = calibrated(stage, "agrees", **changes)
        expect(kept[0].keys() == edges.keys() and max(edges.values()) > 1e-3, edges)
        top = max(edges.values())
        error = max(abs(kept[0][gap] - cost) for gap, cost in edges.items()) / top
        expect(error < 1e-3, changes, error)
        found = file.ScheduleFile.read(FOLDER / name)
        expect((found.sampler, found.num_steps) == ("ddim", STEPS), found)
        expect((found.forecast, found.guidance_scale) == (changes.get("forecast", 1), 4.0), found)
        lists = [[one.full_steps for one in made.schedules] for made in (found, expected)]
        expect(lists[0] == lists[1], lists)
        counts = [f"{len(steps)} of {STEPS} steps" for steps in lists[0]]
        expect(all(count in report for count in counts), report)
        worst[str(changes)] = error
    return worst


def check_the_calibrated_model_is_accelerated(stage: Stage) -> None:
    model, name, _ = calibrated(stage, "followed.json")
    expect(name == "followed.json", name)
    full = stage.part("latte_core.acceleration.schedule_file").ScheduleFile.read(FOLDER / name)
    count = len(full.nearest(2.0).full_steps)
    with notes() as heard:
        found = stage.latte_sampler(model, steps=STEPS)
    expect(heard.counts() == [(count, STEPS)], heard.counts())
    by_name = stage.call("LatteAccelerate", model=stage.model, mode="balanced", schedule=name)[0]
    expect(torch.equal(found, stage.latte_sampler(by_name, steps=STEPS)), "not the same schedule")
    expect(relative(found, stage.latte_sampler(steps=STEPS)) > 1e-4, "nothing was skipped")
    words = ["calibrated", "ddim", "euler"]
    expect_error("IncompatibleInputsError", words, lambda: stage.ksampler(model, steps=STEPS))


def check_calibration_of_an_accelerated_model_is_that_of_the_plain_one(stage: Stage) -> None:
    host = stage.part("nodes.host.run.calibration")
    fast = stage.call("LatteAccelerate", model=stage.model, mode="fast")[0]
    with measured_by(host) as kept:
        calibrated(stage, "plain", max_skip=2)
        calibrated(stage, "plain", fast, max_skip=2)
    expect(kept[0] == kept[1], kept)
    inputs = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
    cached = stage.call("EasyCache", model=stage.model, **inputs)[0]
    words = ["EasyCache", "Latte Calibrate"]
    expect_error("IncompatibleInputsError", words, lambda: calibrated(stage, "other", cached))


def check_block_patches_are_part_of_what_is_measured(stage: Stage) -> None:
    """A patch that changes nothing changes no edge; one that does changes them."""
    host = stage.part("nodes.host.run.calibration")
    calls: list[float] = []

    def patched(factor: float) -> Any:
        model = stage.model.clone()

        def replace_block(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
            calls.append(factor)
            out = extra["original_block"](args)
            return {**out, "img": args["img"] + factor * (out["img"] - args["img"])}

        model.set_model_patch_replace(replace_block, "dit", "double_block", 1)
        return model

    with measured_by(host) as kept:
        for model in (stage.model, patched(1.0), patched(0.5)):
            calibrated(stage, "patched", model, max_skip=2)
    plain, same, other = kept
    expect(1.0 in calls and 0.5 in calls)
    expect(max(abs(plain[gap] - same[gap]) for gap in plain) < 1e-4 * max(plain.values()))
    expect(max(abs(plain[gap] - other[gap]) for gap in plain) > 1e-2 * max(plain.values()))


def check_a_cancelled_calibration_leaves_no_file(stage: Stage) -> None:
    import comfy.model_management as management

    calls: list[int] = []

    def stop_at_twelfth(apply: Any, given: dict[str, Any]) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 12:
            management.interrupt_current_processing()
        return apply(given["input"], given["timestep"], **given["c"])

    stopped = stage.model.clone()
    stopped.set_model_unet_function_wrapper(stop_at_twelfth)
    before = stage.latte_sampler()
    expect_error("InterruptProcessingException", [], lambda: calibrated(stage, "gone", stopped))
    expect(len(calls) == 12, len(calls))
    expect(not list(FOLDER.glob("*gone*")), list(FOLDER.iterdir()))
    expect(torch.equal(stage.latte_sampler(), before), "the next run differs")


def check_a_file_of_something_else_is_kept(stage: Stage) -> None:
    calibrated(stage, "mine", max_skip=2)
    path = FOLDER / "mine.json"
    text = path.read_text(encoding="utf-8")
    words = ["mine.json", "8 steps of ddim", "6 steps of ddim", "file_name"]
    expect_error("InvalidInputError", words, lambda: calibrated(stage, "mine", steps=6))
    other = load(stage, "class")
    inputs = {**given_for(stage, "class"), "latent_image": stage.latent(frames=3), "cfg": 1.0}
    words = ["mine.json", "other weights", "class-conditional", "file_name"]
    expect_error("InvalidInputError", words, lambda: calibrated(stage, "mine", other, **inputs))
    expect(path.read_text(encoding="utf-8") == text)
    calibrated(stage, "mine", max_skip=1)
    expect(path.read_text(encoding="utf-8") != text, "the same model's file is not renewed")
    (FOLDER / "note.json").write_text('{"a": 1}', encoding="utf-8")
    words = ["note.json", "no cache schedules"]
    expect_error("InvalidInputError", words, lambda: calibrated(stage, "note"))
    expect((FOLDER / "note.json").read_text(encoding="utf-8") == '{"a": 1}')
    (FOLDER / "note.json").unlink()


def check_names_of_files_stay_in_their_folder(stage: Stage) -> None:
    _, name, _ = calibrated(stage, "../up/../here", max_skip=2)
    expect(name == "_up_.._here.json" and (FOLDER / name).is_file(), name)
    for empty in ("", "  ", "..", ".json", 3):
        expect_error("InvalidInputError", ["file_name"], lambda name=empty: calibrated(stage, name))


def check_class_models_are_calibrated(stage: Stage) -> None:
    for variety in ("class", "none"):
        model = load(stage, variety)
        inputs = {**given_for(stage, variety), "latent_image": stage.latent(frames=3)}
        patched, name, _ = calibrated(stage, variety, model, **inputs)
        card = json.loads((FOLDER / name).read_text(encoding="utf-8"))
        expect(len(card["digest"]) == 64 and card["prompts"] == 1, card)
        with notes() as heard:
            found = stage.latte_sampler(patched, **{**inputs, "steps": STEPS})
        full, steps = heard.counts()[0]
        expect(full == STEPS // 2 and steps == STEPS, heard.counts())
        expect(bool(found.isfinite().all()), variety)


def check_schedules_that_models_came_with_are_listed(stage: Stage) -> None:
    paths, part = (
        stage.part("nodes.host.base.paths"),
        stage.part("latte_core.acceleration.schedule_file"),
    )
    _, name, _ = calibrated(stage, "shipped", max_skip=2)
    place = Path(folder_paths.models_dir) / "starter_copy"
    (place / part.FOLDER).mkdir(parents=True)
    (FOLDER / name).rename(place / part.FOLDER / "ddim-8.json")
    original, paths.STARTER_FOLDER = paths.STARTER_FOLDER, place
    try:
        listed = stage.own["LatteAccelerate"].INPUT_TYPES()["optional"]["schedule"][0]
        expect("starter/ddim-8.json" in listed, listed)
        model = stage.call(
            "LatteAccelerate", model=stage.model, mode="balanced", schedule="starter/ddim-8.json"
        )[0]
    finally:
        paths.STARTER_FOLDER = original
    with notes() as heard:
        stage.latte_sampler(model, steps=STEPS)
    expect(heard.counts()[0][1] == STEPS and heard.counts()[0][0] < STEPS, heard.counts())
    words = ["calibrated", "8 model", "6 of ddim"]
    expect_error("IncompatibleInputsError", words, lambda: stage.latte_sampler(model, steps=6))
