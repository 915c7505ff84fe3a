"""Settings files of the authors, with the keys and values of docs/model.md 7.3 and 7.4."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from latte_core.cli.sample.reference_settings import read_settings
from latte_core.cli.sample.settings import PRESETS, Settings
from latte_core.errors import InvalidInputError, MissingDependencyError

CLASS_FILE = """
# where things are
ckpt:
save_img_path: "./videos"   # replaced later
pretrained_model_path: "/nowhere/Latte/"

model: Latte-XL/2
num_frames: 16
image_size: 256 # or 512
frame_interval: 2
fixed_spatial: False
attention_bias: True
learn_sigma: True
extras: 1
num_classes:
use_compile: False
use_fp16: True

seed:
sample_method: 'ddpm'
num_sampling_steps: 250
cfg_scale: 1.0
negative_name:
per_proc_batch_size: 2
num_fvd_samples: 2048
"""
TEXT_FILE = """
save_img_path: "./videos/t2i-"
pretrained_model_path: "some-name/on-a-hub"
model: LatteT2V
video_length: 1
image_size: [512, 384]
beta_start: 1e-4
beta_end: 0.02
beta_schedule: "linear"
variance_type: "learned_range"
use_compile: False
use_fp16: True
seed: 0
run_time: 0
guidance_scale: 7.5
sample_method: 'DDIM'
num_sampling_steps: 50
enable_temporal_attentions: True
enable_vae_temporal_decoder: False
text_prompt: [
    'A red fox in the snow.',
    'Rain on a window, at night.',
    ]
"""


def read(folder: Path, text: str) -> Settings:
    path = folder / "sample.yaml"
    path.write_text(text, encoding="utf-8")
    return read_settings(path)


def test_unconditional_settings_are_read(tmp_path: Path) -> None:
    assert read(tmp_path, CLASS_FILE) == Settings(
        source="sample.yaml",
        kind="unconditional",
        config={"model": "Latte-XL/2", "extras": 1, "learn_sigma": True},
        num_for_folder=2048,
        steps="250",
        sampler="ddpm",
        guidance=1.0,
        frames=16,
        height=256,
        width=256,
        fps=8,
        half=True,
    )


def test_class_settings_are_read_and_draw_the_class_as_the_authors_do(tmp_path: Path) -> None:
    text = CLASS_FILE.replace("extras: 1", "extras: 2").replace("num_classes:", "num_classes: 101")
    text = text.replace("cfg_scale: 1.0", "cfg_scale: 7.0").replace("seed:", "seed: 3")
    settings = read(tmp_path, text + "sample_names: [0, 1]\nrun_time: 12\nnum_sample: 1\n")
    assert (settings.kind, settings.classes, settings.guidance) == ("class", ("random",), 7.0)
    assert settings.config is not None and settings.config["num_classes"] == 101
    assert settings.seed == 3


def test_text_settings_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read(tmp_path, TEXT_FILE) == Settings(
        source="sample.yaml",
        kind="text",
        vae="image",
        prompts=("A red fox in the snow.", "Rain on a window, at night."),
        seed=0,
        steps="50",
        guidance=7.5,
        sampler="DDIM",
        frames=1,
        height=512,
        width=384,
        fps=8,
        temporal_attention=True,
        half=True,
        betas=(1e-4, 0.02, "linear"),
    )
    assert caplog.text == ""


def test_paths_are_used_where_they_lead_somewhere(tmp_path: Path) -> None:
    text = CLASS_FILE.replace("ckpt:", f"ckpt: '{tmp_path}'")
    settings = read(tmp_path, text.replace("/nowhere/Latte/", str(tmp_path)))
    assert (settings.model, settings.vae) == (str(tmp_path), str(tmp_path))
    text = TEXT_FILE.replace("some-name/on-a-hub", str(tmp_path))
    assert read(tmp_path, text).model == str(tmp_path)


def test_keys_that_nobody_reads_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(tmp_path, CLASS_FILE + "colour: red\n")
    assert "sample.yaml also says colour, which is not used" in caplog.text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cfg_scale: 1.0", "cfg_scale: much", "cfg_scale: 'much', but it must be a number"),
        ("cfg_scale: 1.0", "cfg_scale: True", "cfg_scale"),
        ("num_frames: 16", "num_frames: 16.5", "num_frames"),
        ("use_fp16: True", "use_fp16: 3", "use_fp16"),
        ("image_size: 256", "image_size: [256, 256, 3]", "image_size"),
        ("image_size: 256", "image_size: large", "image_size"),
        ("sample_method: 'ddpm'", "sample_method: [ddpm]", "sample_method"),
        ("ckpt:", "text_prompt: [1, 2]\nvideo_length: 2", "text_prompt"),
    ],
)
def test_value_of_another_type_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read(tmp_path, CLASS_FILE.replace(old, new))


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "a: [", "!!python/object:os.system {}", "\0"])
def test_file_that_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidInputError, match="sample.yaml"):
        read(tmp_path, text)


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (2**20 + 1))
    for path in (tmp_path / "missing.yaml", large):
        with pytest.raises(InvalidInputError, match=path.name):
            read_settings(path)


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingDependencyError, match="pip install pyyaml"):
        read(tmp_path, CLASS_FILE)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ffs", ("unconditional", "ddpm", "250", 1.0, "image", None, None)),
        ("sky", ("unconditional", "ddpm", "250", 1.0, "image", None, None)),
        ("taichi", ("unconditional", "ddpm", "250", 1.0, "image", None, None)),
        ("ucf101", ("class", "ddpm", "250", 7.0, "image", None, None)),
        ("t2v", ("text", "ddim", "50", 7.5, "temporal", None, True)),
        ("t2i", ("text", "ddim", "50", 7.5, "image", 1, True)),
    ],
)
def test_presets_carry_the_authors_settings(name: str, expected: tuple[Any, ...]) -> None:
    one = PRESETS[name]
    found = (one.kind, one.sampler, one.steps, one.guidance, one.vae, one.frames)
    assert (*found, one.temporal_attention) == expected
    assert one.fps == 8 and one.half


def test_what_is_given_wins_over_what_lies_below() -> None:
    low = Settings(steps="5", seed=3, classes=("a",), temporal_attention=True, frames=2)
    high = Settings(seed=0, classes=("b",), temporal_attention=False)
    joined = high.over(low)
    assert (joined.steps, joined.seed, joined.frames) == ("5", 0, 2)
    assert (joined.classes, joined.temporal_attention) == (("b",), False)
