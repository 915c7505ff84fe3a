"""The training nodes on a stand-in for ComfyUI: names of runs, folders of data and widgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from latte_test_support.comfy.stand_in import StandIn
from latte_test_support.training_nodes import (
    NODES,
    STARTER,
    call,
    needs_starter,
    part,
    refusal,
    small,
)

NAMES = [
    "run", "my run", "v1.2", "caf\u00e9 \u89c6\u9891", "../../x", "..", ".", "/etc/passwd", "C:\\x",
    "a/b", "a\\b", "", "   ", "...", "nul", "NUL.txt", "com1", "lpt9.x", "a\0b", "a\nb", "a:b*c?",
    "x" * 300, "\u89c6" * 300, "\ud800", "~", ".hidden", "trailing. ",
]  # fmt: skip


@pytest.mark.parametrize("text", NAMES)
def test_every_name_becomes_one_folder_among_the_runs(text: str, host: StandIn) -> None:
    folders = part("nodes.host.training.folders")
    folder = folders.run_folder(text)
    assert folder.parent == Path(host.folder("output")) / "latte_training"
    assert folders.name_of_run(folder.name) == folder.name, "a name stays as it is"
    assert not set(folder.name) & set('/\\:*?"<>|\0\n')
    assert folder.name == folder.name.strip(". ")
    assert len(f".{folder.name}.12345678.part.safetensors".encode()) < 255
    folder.mkdir(parents=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("caf\u00e9 \u89c6\u9891 v1.2", "caf\u00e9 \u89c6\u9891 v1.2"),
        ("../../x", "_.._x"),
        ("nul.txt", "_nul.txt"),
        ("...", "my_training"),
    ],
)
def test_usual_names_are_kept_and_others_say_what_they_were(text: str, expected: str) -> None:
    assert part("nodes.host.training.folders").name_of_run(text) == expected


@pytest.mark.parametrize("value", [None, 3, ["run"], b"run"])
def test_a_name_that_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(refusal(), match="must be text"):
        part("nodes.host.training.folders").name_of_run(value)


def test_a_run_that_is_a_link_to_elsewhere_is_refused(host: StandIn, tmp_path: Path) -> None:
    runs = Path(host.folder("output/latte_training"))
    (runs / "run").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(refusal(), match="leads out"):
        part("nodes.host.training.folders").run_folder("run")


@pytest.mark.parametrize("node", ["LatteTrainingStatus", "LatteStopTraining"])
def test_a_run_that_there_is_not_is_answered_with_those_there_are(node: str, host: StandIn) -> None:
    host.folder("output/latte_training/first")
    with pytest.raises(refusal(), match="no run 'second'.*There is first"):
        call(node, run="second")


def test_folders_of_videos_pictures_classes_and_sets_are_listed(host: StandIn) -> None:
    for name in (
        *("videos/a.mp4", "by class/cats/1.gif", "frames/clip/0.png", "set/set.json"),
        *("notes/a.txt", ".hidden/a.mp4", "pictures/0.png", "deep/er/still/a.mp4"),
    ):
        file = Path(host.folder("input")) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (widget, _) = NODES["LatteTrain"].INPUT_TYPES()["required"]["data"]
    assert widget == ["by class", "frames", "set", "videos"]


@pytest.mark.parametrize("name", ["", ".", "..", "../input/prepared", "/tmp", "videos/00000.mp4"])
def test_data_that_is_not_listed_is_refused(name: str, trained: StandIn) -> None:
    with pytest.raises(refusal(), match="none of the 2 folders"):
        call("LatteTrain", **small(data=name))


WRONG = [
    ("model", "../starter"), ("model", "nothing.safetensors"), ("method", "LoRA"), ("steps", 0),
    ("steps", 10**9), ("steps", 1.5), ("batch_size", 0), ("batch_size", True),
    ("learning_rate", float("nan")), ("learning_rate", -1e-4), ("learning_rate", 2.0), ("rank", 0),
    ("rank", 2**31), ("num_frames", 0), ("interval", 0), ("precision", "float64"),
    ("training_seed", -1), ("training_seed", 2**64), ("sample_every", -1), ("sample_prompts", 3),
    ("checkpoint_activations", "yes"),
]  # fmt: skip


@pytest.mark.parametrize(("widget", "value"), WRONG)
def test_values_out_of_range_are_refused_by_the_name_of_their_widget(
    widget: str, value: Any, trained: StandIn
) -> None:
    with pytest.raises(refusal(), match=f"^{widget} is "):
        call("LatteTrain", **small(**{widget: value}))
    assert not (trained.base / "output" / "latte_training").exists(), "nothing was made"


@pytest.mark.parametrize(
    ("node", "inputs"),
    [
        ("LatteTrainingStatus", {"wait": "maybe"}),
        ("LatteTrainingStatus", {"seconds": 0}),
        ("LatteTrainingStatus", {"seconds": 0.5}),
        ("LatteStopTraining", {"seconds": -1}),
    ],
)
def test_watching_and_stopping_check_their_widgets(
    node: str, inputs: dict[str, Any], host: StandIn
) -> None:
    host.folder("output/latte_training/run")
    with pytest.raises(refusal(), match=f"^{next(iter(inputs))} is "):
        call(node, run="run", **inputs)


def config_of(widgets: dict[str, Any]) -> dict[str, Any]:
    """Return the training config of these widgets, checked as the training checks it."""
    cls = part("nodes.host.training.settings").TrainSettings
    groups = NODES["LatteTrain"].INPUT_TYPES().values()
    defaults = {name: one[1].get("default") for group in groups for name, one in group.items()}
    folder = part("nodes.host.training.folders").run_folder(widgets["run_name"])
    values = part("nodes.host.training.settings").config_values(
        cls(**{**defaults, **widgets}), folder, "bfloat16"
    )
    return part("latte_core.training.train_config").TrainConfig.from_dict(values).to_dict()


@pytest.mark.parametrize(
    ("method", "blocks"),
    [
        ("motion LoRA (temporal)", "temporal"),
        ("LoRA (spatial)", "spatial"),
        ("LoRA (both)", "both"),
    ],
)
def test_a_method_chooses_the_blocks_of_the_lora(
    method: str, blocks: str, trained: StandIn
) -> None:
    config = config_of(small(method=method, rank=8))
    assert (config["lora"]["blocks"], config["lora"]["rank"], config["lora"]["alpha"]) == (
        blocks,
        8,
        8.0,
    )


def test_widgets_mean_what_they_say(trained: StandIn) -> None:
    config = config_of(
        small(
            method="all weights",
            sample_prompts="  a red circle\n\nblue  \n",
            training_seed=2**64 - 1,
            checkpoint_activations=True,
        )
    )
    assert config["lora"] is None
    assert config["precision"] == "bfloat16", "auto is what the machine is best at"
    assert config["sample_prompts"] == ["a red circle", "blue"]
    assert config["seed"] == 2**64 - 1
    assert config["checkpoint_activations"] is True
    assert config["data"] == [str(trained.base / "input" / "prepared")]
    assert config_of(small(precision="float16"))["precision"] == "float16"


@needs_starter
def test_a_transformer_without_companions_trains_on_a_prepared_set_alone(
    trained: StandIn,
) -> None:
    weights = STARTER / "transformer" / "diffusion_pytorch_model.safetensors"
    lone = Path(trained.models("diffusion_models")[1]) / "lone.safetensors"
    lone.symlink_to(weights)
    assert config_of(small(model="lone.safetensors"))["model"] == str(lone)
    for widgets in (small(data="videos"), small(sample_every=5)):
        with pytest.raises(refusal(), match=r"model is lone\.safetensors.*vae.*models/diffusers"):
            config_of({**widgets, "model": "lone.safetensors"})
