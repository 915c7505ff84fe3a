"""Folders of videos prepared with the starter's own VAE and text encoder."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.clip_files import bar_frames, write_clip, write_frames, write_large_video

from latte_core.data import LatentSet
from latte_core.data.encoding import encode_captions, encode_moments
from latte_core.data.model_parts import find_model_parts
from latte_core.data.prepare import PrepareSettings, PrepareStep, prepare_set
from latte_core.data.transforms import Transform
from latte_core.errors import CheckpointError, IncompatibleInputsError, InvalidInputError
from latte_core.shipped import STARTER_FOLDER
from latte_core.text.pair import encode_pair
from latte_core.text.t5 import TextEncoder
from latte_core.vae.frames import VideoVAE

SMALL: dict[str, Any] = {"height": 32, "width": 48, "dtype": "float32", "num_frames": 3}
CAPTIONS = ["A Red circle moving left!", "something moving"]


@pytest.fixture(scope="module")
def vae() -> VideoVAE:
    return find_model_parts("starter").open_vae("cpu", None)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return find_model_parts("starter").open_text_encoder("cpu", None)


def prepare(videos: Path, target: Path, model: Any = "starter", **changes: Any) -> LatentSet:
    settings = PrepareSettings(**{**SMALL, **changes})
    return prepare_set(videos, target, model, settings, device="cpu")


def write_videos(folder: Path) -> Path:
    """Write three clips of frames, two of them with captions."""
    for index in range(3):
        write_frames(folder / f"clip{index}", 4 + index, height=40, width=70, seed=index)
    (folder / "clip0.txt").write_text("\n".join(CAPTIONS))
    (folder / "clip2.txt").write_text(CAPTIONS[1])
    return folder


def test_moments_are_those_of_the_vae(vae: VideoVAE) -> None:
    frames = torch.rand((5, 32, 48, 3), generator=torch.Generator().manual_seed(0))
    mean, std = encode_moments(vae, frames)
    assert torch.equal(mean, vae.encode(frames[None])[0].movedim(0, 1))
    drawn = vae.encode(frames[None], generator=torch.Generator().manual_seed(1))[0].movedim(0, 1)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(mean + std * noise, drawn, atol=1e-5)


@pytest.mark.parametrize("clean", [True, False])
def test_contexts_are_those_of_the_pipelines_prompts(encoder: TextEncoder, clean: bool) -> None:
    texts = ["", *CAPTIONS, "a [red] circle & more \u4e00"]
    for text, rows in zip(texts, encode_captions(encoder, texts, clean_caption=clean), strict=True):
        positive, negative = encode_pair(encoder, text, clean_caption=clean)
        assert rows.shape == positive[0].shape
        assert torch.allclose(rows, positive[0], atol=1e-5)
        assert negative.shape == positive.shape


def test_set_holds_what_vae_and_text_encoder_give(
    tmp_path: Path, vae: VideoVAE, encoder: TextEncoder
) -> None:
    made = prepare(write_videos(tmp_path / "in"), tmp_path / "set", has_std=True, has_flips=True)
    assert [made.name(index) for index in range(3)] == ["clip0", "clip1", "clip2"]
    transform = Transform(kind="smooth", height=32, width=48)
    for index in range(3):
        frames = bar_frames(4 + index, 40, 70, seed=index)
        for flipped in (False, True):
            expected = encode_moments(vae, transform(frames, flipped=flipped))
            found = made.moments(index, range(4 + index), flipped=flipped)
            assert torch.equal(found[0], expected[0])
            assert found[1] is not None
            assert torch.equal(found[1], expected[1])
    assert [made.caption_ids(index) for index in range(3)] == [(1, 2), (0,), (2,)]
    for number, text in enumerate(["", *CAPTIONS]):
        positive, _ = encode_pair(encoder, text)
        assert torch.allclose(made.context(number), positive[0], atol=1e-5)
    rows = made.empty_rows()
    assert rows is not None
    _, negative = encode_pair(encoder, CAPTIONS[0])
    assert torch.allclose(rows[: negative.shape[1]], negative[0], atol=1e-5)


def test_set_describes_how_it_was_made(tmp_path: Path) -> None:
    made = prepare(write_videos(tmp_path / "in"), tmp_path / "set", dtype="float16")
    info = made.info
    assert (info.model, info.layout, info.dtype) == ("starter", "folder", "float16")
    assert (info.latent_height, info.latent_width, info.text_width) == (4, 6, 128)
    assert info.scaling_factor == 0.18215
    assert info.details["sampling"] == "linspace"
    assert len(info.details["vae_sha256"]) == len(info.details["text_encoder_sha256"]) == 64


def test_class_model_needs_no_text(tmp_path: Path) -> None:
    for index, name in enumerate(["walk", "run", "run"]):
        write_frames(tmp_path / "in" / name / str(index), 3, seed=index)
    made = prepare(tmp_path / "in", tmp_path / "set", "class-starter")
    assert made.info.class_names == ("run", "walk")
    assert [made.class_label(index) for index in range(3)] == [0, 0, 1]
    assert made.info.text_width is None
    assert not list((tmp_path / "set").glob("text-*"))


def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path) -> None:
    videos = write_videos(tmp_path / "in")
    prepare(videos, tmp_path / "one", num_workers=1)
    prepare(videos, tmp_path / "many", num_workers=7)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "many" / path.name).read_bytes()


class StoppedError(Exception):
    """What a callback may raise."""


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_r36_cancelled_run_goes_on_and_ends_in_the_same_bytes(tmp_path: Path, step: int) -> None:
    videos = write_videos(tmp_path / "in")
    settings = PrepareSettings(**SMALL, clips_per_shard=1)
    whole = prepare_set(videos, tmp_path / "whole", "starter", settings, device="cpu")
    stop, steps = StoppedError(), list[PrepareStep]()

    def cancel(told: PrepareStep) -> None:
        steps.append(told)
        if len(steps) == step + 1:
            raise stop

    with pytest.raises(StoppedError) as caught:
        prepare_set(videos, tmp_path / "set", "starter", settings, device="cpu", callback=cancel)
    assert caught.value is stop
    assert not list((tmp_path / "set").glob(".*"))
    again: list[PrepareStep] = []
    prepare_set(videos, tmp_path / "set", "starter", settings, device="cpu", callback=again.append)
    clips = [told.done for told in again if told.what == "clips"]
    assert clips == list(range(min(step, 2) + 2, 4))
    for path in whole.folder.iterdir():
        assert path.read_bytes() == (tmp_path / "set" / path.name).read_bytes()


def test_finished_set_is_opened_if_nothing_has_changed(tmp_path: Path) -> None:
    videos = write_videos(tmp_path / "in")
    first = prepare(videos, tmp_path / "set")
    before = {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    assert len(prepare(videos, tmp_path / "set")) == 3
    assert before == {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    with pytest.raises(InvalidInputError, match="begun with has_flips False"):
        prepare(videos, tmp_path / "set", has_flips=True)
    write_frames(videos / "new", 5)
    with pytest.raises(InvalidInputError, match="made of 3 clips, but now there are 4"):
        prepare(videos, tmp_path / "set")


def write_bad_files(folder: Path) -> int:
    """Write ten clips that are of no use, each in its own way, and return their number."""
    whole = write_clip(folder / "whole.mp4", 12, height=96, width=128).read_bytes()
    (folder / "whole.mp4").unlink()
    (folder / "1_empty.mp4").write_bytes(b"")
    (folder / "2_noise.mp4").write_bytes(torch.arange(9999).to(torch.uint8).numpy().tobytes())
    (folder / "3_cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "4_page.avi").write_bytes(b"<!doctype html><html><body>404</body></html>")
    (folder / "5_list.mkv").write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    write_clip(folder / "6_one_frame.gif", 1)
    write_clip(folder / "7_short.webm", 2)
    write_large_video(folder / "8_huge.avi", 7680, 4320)
    write_frames(folder / "9_broken", 5)
    (folder / "9_broken" / "000002.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    write_frames(folder / "A_sizes", 5)
    write_frames(folder / "other", 1, height=48, width=64)
    (folder / "other" / "000000.png").replace(folder / "A_sizes" / "000003.png")
    (folder / "other").rmdir()
    return 10


def test_r64_bad_files_are_skipped_with_reasons_and_good_ones_are_used(tmp_path: Path) -> None:
    num_bad = write_bad_files(tmp_path / "in")
    write_frames(tmp_path / "in" / "B_good", 4)
    steps: list[PrepareStep] = []
    settings = PrepareSettings(**SMALL, max_failures=1)
    made = prepare_set(
        tmp_path / "in", tmp_path / "set", "starter", settings, callback=steps.append
    )
    assert [made.name(index) for index in range(len(made))] == ["B_good"]
    assert len(made.skipped) == num_bad
    reasons = {skip.name: skip.reason for skip in made.skipped}
    for name in ("1_empty.mp4", "2_noise.mp4", "3_cut.mp4", "4_page.avi", "5_list.mkv"):
        assert "cannot be read as a video to its end" in reasons[name]
    assert "has 1 frames, but 3 are needed" in reasons["6_one_frame.gif"]
    assert "has 2 frames, but 3 are needed" in reasons["7_short.webm"]
    assert "7680 x 4320 pixels" in reasons["8_huge.avi"]
    assert "000002.png in 9_broken cannot be read" in reasons["9_broken"]
    assert "changes its size" in reasons["A_sizes"]
    assert [told.num_skipped for told in steps if told.what == "clips"] == [*range(1, 11), 10]


def test_r64_too_many_failures_stop_the_run(tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"a{index}.mp4").write_bytes(b"nothing")
        write_frames(tmp_path / "in" / f"b{index}", 3)
    made = prepare(tmp_path / "in", tmp_path / "half", max_failures=0.5)
    assert (len(made), len(made.skipped)) == (3, 3)
    with pytest.raises(InvalidInputError, match="2 of 6 clips cannot be used.*more than the 33%"):
        prepare(tmp_path / "in", tmp_path / "set", max_failures=0.33)
    assert not (tmp_path / "set" / "set.json").exists()


def test_repaired_video_is_used_when_the_run_goes_on(tmp_path: Path) -> None:
    videos = write_videos(tmp_path / "in")
    (videos / "a.gif").write_bytes(b"nothing")
    with pytest.raises(InvalidInputError, match=r"a\.gif cannot be read"):
        prepare(videos, tmp_path / "set", max_failures=0)
    write_clip(videos / "a.gif", 4)
    made = prepare(videos, tmp_path / "set", max_failures=0)
    assert [made.name(index) for index in range(4)] == ["a.gif", "clip0", "clip1", "clip2"]


def test_only_bad_files_leave_no_set(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"nothing")
    with pytest.raises(InvalidInputError, match="has no clips.*1 were left out"):
        prepare(tmp_path / "in", tmp_path / "set", max_failures=1)


def test_long_video_is_stored_from_its_first_frames(tmp_path: Path, vae: VideoVAE) -> None:
    write_frames(tmp_path / "in" / "clip", 20, height=32, width=48)
    made = prepare(tmp_path / "in", tmp_path / "set", max_frames=7, batch=16)
    assert made.num_frames(0) == 7
    expected, _ = encode_moments(vae, bar_frames(7, 32, 48).float() / 255)
    assert torch.equal(made.moments(0, range(7))[0], expected)


def test_clips_without_captions_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="latte"):
        prepare(write_videos(tmp_path / "in"), tmp_path / "set")
    assert "1 of 3 clips have no caption" in caplog.text


def test_model_gives_size_and_length_when_they_are_left_out(tmp_path: Path) -> None:
    write_frames(tmp_path / "in" / "long", 16)
    write_frames(tmp_path / "in" / "short", 15)
    made = prepare_set(tmp_path / "in", tmp_path / "set", "starter", device="cpu")
    assert (made.info.latent_height, made.info.latent_width) == (8, 8)
    assert [skip.name for skip in made.skipped] == ["short"]


def test_published_layout_asks_for_a_whole_window(tmp_path: Path) -> None:
    write_frames(tmp_path / "in" / "long", 7)
    write_frames(tmp_path / "in" / "short", 6)
    made = prepare(tmp_path / "in", tmp_path / "set", layout="skytimelapse", interval=2)
    assert [made.name(index) for index in range(len(made))] == ["long"]
    assert made.info.layout == "skytimelapse"
    assert made.info.details["sampling"] == "stride"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "kinetics"}, "kinetics"),
        ({"height": 30}, "multiple of 16"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"max_frames": 2}, "2 frames of each video are to be stored.*needs 3"),
        ({"max_frames": 0}, "max_frames is 0"),
        ({"num_workers": 0}, "num_workers is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"max_failures": 2}, "max_failures is 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_frames(tmp_path / "in" / "clip", 4)
    with pytest.raises(InvalidInputError, match=message):
        prepare(tmp_path / "in", tmp_path / "set", **changes)


def test_parts_alone_are_enough_to_prepare_for_a_new_model(tmp_path: Path) -> None:
    home = tmp_path / "parts"
    shutil.copytree(STARTER_FOLDER / "vae", home / "vae")
    assert find_model_parts(home).text_width is None
    shutil.copytree(STARTER_FOLDER / "text_encoder", home / "text_encoder")
    with pytest.raises(CheckpointError, match="no tokenizer in it"):
        find_model_parts(home)
    shutil.copytree(STARTER_FOLDER / "tokenizer", home / "tokenizer")
    parts = find_model_parts(home)
    assert (parts.name, parts.text_width, parts.height) == ("parts", 128, 512)
    alone = find_model_parts(home / "vae")
    assert (alone.text_encoder, alone.height) == (None, 256)
    assert alone.digests() == {"vae_sha256": parts.digests()["vae_sha256"]}


def test_temporal_vae_serves_where_there_is_no_image_vae(tmp_path: Path) -> None:
    home = tmp_path / "model"
    for name in ("transformer", "vae_temporal_decoder", "text_encoder", "tokenizer"):
        shutil.copytree(STARTER_FOLDER / name, home / name)
    assert find_model_parts(home).vae == home / "vae_temporal_decoder"
    shutil.rmtree(home / "vae_temporal_decoder")
    with pytest.raises(CheckpointError, match="needs a VAE"):
        find_model_parts(home)


def test_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no model"):
        find_model_parts(tmp_path / "nothing")


def test_vae_that_only_decodes_is_refused(tmp_path: Path, vae: VideoVAE) -> None:
    class Decoder:
        can_encode = False

    with pytest.raises(IncompatibleInputsError, match="only decodes"):
        encode_moments(Decoder(), torch.zeros(1, 16, 16, 3))  # type: ignore[arg-type]
