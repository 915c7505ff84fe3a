"""Checks of models, classes and text wired together wrongly: sentences that name both sockets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_paths
import torch
from host import Stage, expect, expect_error
from tiny import frames as empty
from tiny import label, load, nothing, write_folder


def both_samplers(stage: Stage) -> list[Callable[..., torch.Tensor]]:
    """Return Latte Sampler and KSampler."""
    return [stage.latte_sampler, stage.ksampler]


def expect_on_both_sockets(
    stage: Stage, model: Any, right: dict[str, Any], wrong: dict[str, Any], words: list[str]
) -> None:
    """Expect a sentence from both samplers for either wrong wire."""
    for sample in both_samplers(stage):
        for socket in ("positive", "negative"):
            given = {**right, socket: wrong[socket], "latent_image": empty(stage)}
            expect_error(
                "IncompatibleInputsError",
                [f'"{socket}" input', '"model" input', *words],
                lambda s=sample, g=given: s(model, **g),
            )


def check_a_class_into_a_text_model(stage: Stage) -> None:
    text = {"positive": stage.positive, "negative": stage.negative}
    words = ["text-to-video", "Latte Class Label", "Latte Text Encode"]
    expect_on_both_sockets(stage, stage.model, text, label(stage), words)


def check_nothing_into_a_text_model(stage: Stage) -> None:
    text = {"positive": stage.positive, "negative": stage.negative}
    words = ["text-to-video", "Latte Unconditional", "Latte Text Encode"]
    expect_on_both_sockets(stage, stage.model, text, nothing(stage), words)


def check_text_into_a_class_model(stage: Stage) -> None:
    text = {"positive": stage.positive, "negative": stage.negative}
    words = ["got text", "5 classes", "Latte Class Label"]
    expect_on_both_sockets(stage, load(stage), label(stage), text, words)


def check_nothing_means_any_class_to_a_class_model(stage: Stage) -> None:
    model, given = load(stage), nothing(stage)
    any_class = {name: label(stage)["negative"] for name in given}
    for sample in both_samplers(stage):
        expected = sample(model, cfg=1.0, latent_image=empty(stage), **any_class)
        found = sample(model, cfg=1.0, latent_image=empty(stage), **given)
        expect(torch.equal(found, expected))


def check_nothing_into_a_model_without_any_class(stage: Stage) -> None:
    words = ["Latte Unconditional", "5 classes", "Latte Class Label"]
    model = load(stage, "no_null_class")
    expect_on_both_sockets(stage, model, label(stage), nothing(stage), words)


def check_text_or_a_class_into_an_unconditional_model(stage: Stage) -> None:
    text = {"positive": stage.positive, "negative": stage.negative}
    model = load(stage, "none")
    for wrong, word in ((text, "got text"), (label(stage), "got a class")):
        words = [word, "an unconditional Latte", "Latte Unconditional"]
        expect_on_both_sockets(stage, model, nothing(stage), wrong, words)


def check_classes_out_of_range(stage: Stage) -> None:
    model = load(stage)
    for number in (6, 57, 1000):
        for sample in both_samplers(stage):
            words = ['"positive" input', '"model" input', str(number), "0 to 4", "5 classes"]
            given = {**label(stage, number), "latent_image": empty(stage)}
            expect_error("InvalidInputError", words, lambda s=sample, g=given: s(model, **g))
    for number in (-2, 1_000_001, 1.5, True):
        expect_error(
            "InvalidInputError", ["class_number"], lambda n=number: label_of_number(stage, n)
        )


def label_of_number(stage: Stage, number: Any) -> Any:
    """Run Latte Class Label with a number."""
    return stage.call("LatteClassLabel", class_name="Archery", class_number=number)


def check_names_that_a_model_does_not_have(stage: Stage) -> None:
    folder = Path(folder_paths.get_folder_paths("diffusers")[0]) / "named-classes"
    write_folder(stage, folder)
    named = stage.call("LatteModelLoader", model_name="named-classes/", weight_dtype="fp32")[0]
    nameless = load(stage)
    for sample in both_samplers(stage):
        given = {**label(stage, "red circles"), "latent_image": empty(stage)}
        words = ['"positive" input', "red circles", 'Did you mean "red circle"', "class_name"]
        expect_error("InvalidInputError", words, lambda s=sample, g=given: s(named, **g))
        words = ['"positive" input', "without names", "0 to 4", "class_number"]
        expect_error("InvalidInputError", words, lambda s=sample, g=given: s(nameless, **g))


def check_any_class_can_be_chosen(stage: Stage) -> None:
    model = load(stage)
    pair = label(stage, 5)
    conds = {"positive": pair["negative"], "negative": pair["negative"]}
    any_class = stage.ksampler(model, cfg=1.0, latent_image=empty(stage), **conds)
    found = stage.ksampler(model, cfg=1.0, latent_image=empty(stage), **pair)
    expect(torch.equal(found, any_class))


def check_guidance_without_a_null_class_is_refused(stage: Stage) -> None:
    model = load(stage, "no_null_class")
    given = {**label(stage), "latent_image": empty(stage)}
    for sample, words in (
        (stage.latte_sampler, ["cfg of Latte Sampler is 4", "any class", "Set cfg to 1"]),
        (stage.ksampler, ["any class", "guidance scale of 1"]),
    ):
        expect_error("InvalidInputError", words, lambda s=sample: s(model, cfg=4.0, **given))
        expect(bool(sample(model, cfg=1.0, **given).isfinite().all()))


def check_missing_conditioning_of_class_models(stage: Stage) -> None:
    for variety, right, word in (
        ("class", label(stage), "Latte Class Label"),
        ("none", nothing(stage), "Latte Unconditional"),
    ):
        for wrong in ([], None):
            given = {**right, "positive": wrong, "latent_image": empty(stage)}
            model = load(stage, variety)
            expect_error(
                "IncompatibleInputsError",
                ["positive", word],
                lambda m=model, g=given: stage.latte_sampler(m, **g),
            )


def check_larger_patches_name_their_sizes(stage: Stage) -> None:
    for variety, side, words in (
        ("patch_4", 48, ["48 pixels high", "multiple of 32", "32 and 64"]),
        ("patch_8", 80, ["80 pixels high", "multiple of 64", "64 and 128"]),
    ):
        given = {**(label(stage) if variety == "patch_4" else nothing(stage))}
        latent = empty(stage, 3, side)
        model = load(stage, variety)
        expect_error(
            "InvalidInputError",
            ["latent_image", *words],
            lambda m=model, g=given, lat=latent: stage.latte_sampler(m, latent_image=lat, **g),
        )
    expect_error(
        "InvalidInputError",
        ["latent_image", "5 frames", "4 and 6"],
        lambda: stage.latte_sampler(
            load(stage, "tubelets"), latent_image=empty(stage, 5), **label(stage)
        ),
    )


def check_class_conditioning_passes_stock_nodes(stage: Stage) -> None:
    model = load(stage)
    one, two = label(stage, 1), label(stage, 2)
    given = {"negative": one["negative"], "latent_image": empty(stage)}
    joined = stage.call(
        "ConditioningCombine", conditioning_1=one["positive"], conditioning_2=two["positive"]
    )[0]
    for sample in both_samplers(stage):
        mixed = sample(model, positive=joined, **given)
        expect(bool(mixed.isfinite().all()), sample)
    ddpm = stage.latte_sampler(model, positive=joined, method="ddpm", **given)
    expect(bool(ddpm.isfinite().all()))
    for node in ("ConditioningZeroOut",):
        same = stage.call(node, conditioning=one["positive"])[0]
        expect(bool(stage.ksampler(model, positive=same, **given).isfinite().all()), node)


def check_class_nodes_keep_no_state(stage: Stage) -> None:
    first, second = label(stage, 1), label(stage, 1)
    expect(first["positive"][0][1] == second["positive"][0][1])
    first["positive"][0][1]["latte_class"] = 4
    expect(label(stage, 1)["positive"][0][1]["latte_class"] == 1)
