"""Protocols, clips of folders, and whole measurements with the network that needs no file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.clip_files import cut_without_encoding, write_clip
from latte_test_support.feature_weights import random_clips
from torch import Tensor, nn

from latte_core.errors import IncompatibleInputsError, InvalidInputError
from latte_core.metrics import (
    NETWORKS,
    PRESETS,
    Features,
    FolderClips,
    SideReport,
    find_protocol,
    load_features,
    measure,
)
from latte_core.metrics.clips import FAKE, REAL
from latte_core.metrics.measure import check_fit
from latte_core.video import decode, stream
from latte_core.video.frame_folder import write_frame_folder
from latte_core.video.stream import VideoSource

SIDE = 10
FVD = find_protocol("fvd").changed(num=65, num_frames=4)


def write_videos(root: Path, lengths: list[int], side: int = SIDE) -> Path:
    """Write videos whose every pixel says which video (red) and which frame (green) it is of."""
    for number, length in enumerate(lengths):
        frames = torch.zeros(length, side, side, 3, dtype=torch.uint8)
        frames[..., 0] = number
        frames[..., 1] = torch.arange(length, dtype=torch.uint8).view(-1, 1, 1)
        write_frame_folder(root / f"{number:03d}", frames)
    return root


def origin(clip: Tensor) -> tuple[int, list[int]]:
    """Return which video and which frames a clip of `write_videos` is of."""
    return int(clip[0, 0, 0, 0]), clip[:, 0, 0, 1].tolist()


class GivenClips:
    """Clips from memory."""

    def __init__(self, clips: Tensor, name: str = "given") -> None:
        self.clips, self.name = clips, name

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.clips)

    def report(self) -> SideReport:
        return SideReport(source=self.name, samples=len(self.clips), videos=len(self.clips))


class Given(nn.Module):
    """Takes the probabilities of two classes from a picture's red and green."""

    num_features = 2

    def probabilities(self, frames: Tensor) -> Tensor:
        return frames[:, 0, 0, 0, :2] / 100


def test_presets_are_those_of_the_reference() -> None:
    assert list(PRESETS) == [
        "fvd2048_16f", "fvd2048_128f", "fvd2048_128f_subsample8f", "fid50k", "kid50k", "is50k",
        "isv2048_ucf",
    ]  # fmt: skip
    assert [(one.num, one.num_frames) for one in PRESETS.values()] == [
        (2048, 16), (2048, 128), (2048, 16), (50_000, 0), (50_000, 0), (50_000, 0), (2048, 16),
    ]  # fmt: skip
    fvd = PRESETS["fvd2048_16f"]
    assert (fvd.interval, fvd.real_step, fvd.real_span) == (3, 3, 48)
    assert fvd.last_start(48) == 2 and fvd.last_start(100) == 100 - 48 + 2
    assert PRESETS["fvd2048_128f_subsample8f"].real_span == PRESETS["fvd2048_128f"].real_span
    assert PRESETS["kid50k"].to_dict()["subset_size"] == 1000
    assert PRESETS["isv2048_ucf"].to_dict()["shuffle_seed"] == 42


def test_changes_stay_in_sight() -> None:
    taichi = find_protocol(" FVD ").changed(interval=6, size=None)
    assert taichi.title() == "fvd2048_16f (changed: interval 6)"
    assert taichi.real_span == 96
    assert find_protocol("fvd2048_16f").title() == "fvd2048_16f"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num": 1}, "num"),
        ({"interval": 0}, "interval"),
        ({"size": 4}, "size"),
        ({"seed": -1}, "seed"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        find_protocol("fvd").changed(**values)


def test_unknown_metric_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InvalidInputError, match='Did you mean "fvd2048_16f"'):
        find_protocol("fvd2048_16")


def test_real_clips_have_the_interval_and_a_start_drawn_from_the_seed(tmp_path: Path) -> None:
    root = write_videos(tmp_path, [12, 30, 11, 40, 50])
    protocol = FVD  # 4 frames 3 apart: 12 frames needed, the last start leaves 2 over
    clips = FolderClips(root, protocol, REAL)
    found = dict(origin(clip) for clip in clips)
    assert set(found) == {0, 1, 3, 4}
    assert all(numbers[k + 1] - numbers[k] == 3 for numbers in found.values() for k in range(3))
    assert found[0][0] in (0, 1, 2) and found[0][-1] <= 11
    assert clips.report() == SideReport(source=root.name, samples=4, videos=5, too_short=1)
    again = dict(origin(clip) for clip in FolderClips(root, protocol, REAL))
    other = dict(origin(clip) for clip in FolderClips(root, protocol.changed(seed=1), REAL))
    assert again == found != other
    starts = {
        origin(clip)[1][0]
        for seed in range(60)
        for clip in FolderClips(root, protocol.changed(seed=seed), REAL)
        if origin(clip)[0] == 0
    }
    assert starts == {0, 1, 2}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that ffmpeg decodes, once for each time."""
    names: list[str] = []

    def heard(function: Any) -> Any:
        def call(arguments: tuple[str, ...]) -> Any:
            if "copy" not in arguments:
                names.append(Path(arguments[arguments.index("-i") + 1]).name)
            return function(arguments)

        return call

    monkeypatch.setattr(decode, "open_decoder", heard(decode.open_decoder))
    monkeypatch.setattr(stream, "run_decoder", heard(stream.run_decoder))
    return names


def test_every_real_video_file_is_decoded_once(tmp_path: Path, decoded: list[str]) -> None:
    files = [write_clip(tmp_path / f"{name}.mp4", 20, seed=seed) for seed, name in enumerate("abc")]
    clips = list(FolderClips(tmp_path, FVD.changed(interval=3), REAL))
    assert sorted(decoded) == ["a.mp4", "b.mp4", "c.mp4"]
    assert len(clips) == len(files)


@pytest.mark.parametrize("listed", [0, 5, 4000])
def test_file_that_lists_its_frames_wrongly_gives_the_clip_of_its_decoded_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: int
) -> None:
    write_clip(tmp_path / "a.mp4", 20)
    protocol = FVD.changed(interval=3)
    (expected,) = FolderClips(tmp_path, protocol, REAL)
    monkeypatch.setattr(VideoSource, "count_listed", lambda _: listed)
    (found,) = FolderClips(tmp_path, protocol, REAL)
    assert torch.equal(found, expected)


def test_file_that_was_cut_without_encoding_gives_the_clip_of_its_decoded_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    whole = write_clip(tmp_path / "whole.mp4", 40)
    cut_without_encoding(whole, tmp_path / "cut.mp4", 19 / 8)
    whole.unlink()
    protocols = [FVD.changed(interval=2, seed=seed) for seed in range(4)]
    found = [next(iter(FolderClips(tmp_path, one, REAL))) for one in protocols]
    assert decoded == ["cut.mp4"] * 4
    monkeypatch.setattr(VideoSource, "count_listed", VideoSource.count)
    expected = [next(iter(FolderClips(tmp_path, one, REAL))) for one in protocols]
    assert torch.equal(torch.stack(found), torch.stack(expected))


def test_start_of_a_clip_does_not_move_when_videos_are_added(tmp_path: Path) -> None:
    root = write_videos(tmp_path, [40, 40])
    before = dict(origin(clip) for clip in FolderClips(root, FVD, REAL))
    write_videos(tmp_path / "more", [40] * 3)
    after = [origin(clip) for clip in FolderClips(root, FVD, REAL)]
    assert len(after) == 5 and all(item in after for item in before.items())


def test_real_side_gives_at_most_what_is_asked_each_video_once(tmp_path: Path) -> None:
    root = write_videos(tmp_path, [12] * 8)
    chosen = [
        sorted(origin(clip)[0] for clip in FolderClips(root, FVD.changed(num=3, seed=s), REAL))
        for s in range(4)
    ]
    assert all(len(set(one)) == 3 for one in chosen)
    assert len({tuple(one) for one in chosen}) > 1


def test_fake_clips_are_the_first_frames_of_enough_videos(tmp_path: Path) -> None:
    root = write_videos(tmp_path, [4, 9, 3, 4])
    clips = FolderClips(root, FVD.changed(num=3), FAKE)
    found = dict(origin(clip) for clip in clips)
    assert found == {0: [0, 1, 2, 3], 1: [0, 1, 2, 3], 3: [0, 1, 2, 3]}
    with pytest.raises(InvalidInputError, match=r"holds 4 videos, but fvd2048_16f needs 65"):
        FolderClips(root, FVD, FAKE)
    with pytest.raises(InvalidInputError, match=r"3 videos of 4 frames.*needs 4.*--num 3"):
        list(FolderClips(root, FVD.changed(num=4), FAKE))


def test_subsampling_takes_every_second_frame_on_both_sides(tmp_path: Path) -> None:
    root = write_videos(tmp_path, [24])
    protocol = FVD.changed(num=2, subsample=2)
    (real,) = [origin(clip)[1] for clip in FolderClips(root, protocol, REAL)]
    assert [b - a for a, b in zip(real, real[1:], strict=False)] == [6, 6, 6]
    write_videos(tmp_path / "more", [24])
    fake = [origin(clip)[1] for clip in FolderClips(root, protocol, FAKE)]
    assert fake == [[0, 2, 4, 6]] * 2


def test_pictures_are_drawn_from_all_frames_of_all_videos(tmp_path: Path) -> None:
    root = write_videos(tmp_path, [3, 5, 2])
    every = {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (2, 0), (2, 1)}
    protocol = find_protocol("fid").changed(num=10)
    found = [origin(clip) for clip in FolderClips(root, protocol, FAKE)]
    assert sorted((video, numbers[0]) for video, numbers in found) == sorted(every)
    some = [origin(clip) for clip in FolderClips(root, protocol.changed(num=4), REAL)]
    assert len({(video, numbers[0]) for video, numbers in some}) == 4
    with pytest.raises(InvalidInputError, match="holds 10 frames, but fid50k needs 11"):
        list(FolderClips(root, protocol.changed(num=11), FAKE))


def test_frames_are_cut_and_resized_where_the_protocol_says_so(tmp_path: Path) -> None:
    write_videos(tmp_path, [4])
    clips = FolderClips(tmp_path, FVD.changed(num=2, size=8, interval=1), REAL)
    assert [clip.shape for clip in clips] == [(4, 8, 8, 3)]


def test_measured_distance_is_zero_for_a_folder_with_itself(tmp_path: Path) -> None:
    for index, frames in enumerate(random_clips(65, 4, SIDE, SIDE)):
        write_frame_folder(tmp_path / str(index), frames)
    protocol = FVD.changed(interval=1)
    seen: list[int] = []
    found = measure(
        protocol,
        load_features("random"),
        real=FolderClips(tmp_path, protocol, REAL),
        fake=FolderClips(tmp_path, protocol, FAKE),
        advance=lambda: seen.append(1),
    )
    assert found.value < 1e-6 and len(seen) == 130
    line = found.line()
    assert "\n" not in line
    for piece in (
        "protocol fvd2048_16f (changed: num 65, num_frames 4, interval 1)",
        f"real {tmp_path.name}, 65 samples of 65 videos, 4 frames 1 apart from a start drawn",
        "fake",
        "the first 4 frames",
        "10 x 10 pixels",
        "NOT comparable with published numbers",
    ):
        assert piece in line
    values = found.to_dict()
    assert values["protocol"]["changed"] == {"num": 65, "num_frames": 4, "interval": 1}
    assert values["features"]["comparable_with_published"] is False


def test_measured_distance_grows_with_noise_and_does_not_depend_on_the_batches() -> None:
    plain = random_clips(80, 4, SIDE, SIDE).float() / 4 + 96
    noise = random_clips(80, 4, SIDE, SIDE, seed=5).float() - 128
    protocol, features = FVD.changed(num=80), load_features("random")

    def distance(strength: float, batch_size: int | None = None) -> float:
        made = (plain + strength * noise).clamp(0, 255).to(torch.uint8)
        return measure(
            protocol,
            features,
            real=GivenClips(plain.to(torch.uint8)),
            fake=GivenClips(made),
            batch_size=batch_size,
        ).value

    found = [distance(strength) for strength in (0.0, 0.1, 0.2, 0.4)]
    assert found[0] < 1e-6 < found[1] < found[2] < found[3]
    assert distance(0.2, batch_size=7) == pytest.approx(found[2], rel=1e-4)


def test_kernel_distance_of_pictures_is_measured_with_its_spread() -> None:
    protocol = find_protocol("kid").changed(num=40, subset_size=20)
    pictures = random_clips(40, 1, SIDE, SIDE)
    found = measure(
        protocol,
        load_features("random"),
        real=GivenClips(pictures),
        fake=GivenClips(pictures // 4),
    )
    assert found.value > 1000 and found.std is not None
    assert re.fullmatch(r"KID \S+ \+- \S+ \(times 1000\)", found.number())


def test_inception_score_looks_at_made_pictures_alone() -> None:
    pictures = torch.zeros(40, 1, 2, 2, 3, dtype=torch.uint8)
    pictures[::2, ..., 0] = pictures[1::2, ..., 1] = 100  # two sure classes
    protocol = find_protocol("is").changed(num=40)
    features = Features(
        kind=NETWORKS["inception"], module=Given(), device=torch.device("cpu"), file="w", digest="d"
    )
    found = measure(protocol, features, fake=GivenClips(pictures))
    assert 1.5 < found.value <= 2.0  # parts of four rarely hold two of each
    assert "real" not in found.line()
    with pytest.raises(IncompatibleInputsError, match="fake side alone"):
        measure(protocol, features, fake=GivenClips(pictures), real=GivenClips(pictures))


def test_sides_of_different_sizes_are_refused() -> None:
    with pytest.raises(IncompatibleInputsError, match=r"12 x 8 pixels, but others have 10 x 10"):
        measure(
            FVD,
            load_features("random"),
            real=GivenClips(random_clips(65, 4, 10, 10)),
            fake=GivenClips(random_clips(65, 4, 8, 12), "made"),
        )


def test_real_folder_of_short_videos_alone_is_refused(tmp_path: Path) -> None:
    root = write_videos(tmp_path, [5, 6])
    with pytest.raises(InvalidInputError, match="2 videos are all shorter"):
        measure(
            FVD,
            load_features("random"),
            real=FolderClips(root, FVD, REAL),
            fake=GivenClips(random_clips(65, 4, SIDE, SIDE)),
        )


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("fvd", {"num": 64}, r"64 samples on the fake side.* at least 65"),
        ("kid", {"num": 999}, "at least 1000"),
    ],
)
def test_too_few_samples_are_refused_before_the_work_begins(
    name: str, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        check_fit(find_protocol(name).changed(**values), load_features("random"))


@pytest.mark.parametrize(
    ("metric", "network", "fits"),
    [("fvd", "inception", "i3d"), ("fid", "i3d", "inception"), ("isv", "i3d", "c3d"),
     ("is", "random", "inception"), ("kid", "c3d", "inception")],
)  # fmt: skip
def test_network_that_does_not_fit_the_metric_is_refused(
    metric: str, network: str, fits: str
) -> None:
    features = Features(kind=NETWORKS[network], module=Given(), device=torch.device("cpu"))
    with pytest.raises(IncompatibleInputsError, match=f"Give the weights of {fits}"):
        check_fit(find_protocol(metric), features)


def test_too_few_real_videos_are_refused_with_the_number() -> None:
    with pytest.raises(InvalidInputError, match=r"64 samples on the real side.* at least 65"):
        measure(
            FVD,
            load_features("random"),
            real=GivenClips(random_clips(64, 4, SIDE, SIDE)),
            fake=GivenClips(random_clips(65, 4, SIDE, SIDE)),
        )


def write_damaged(root: Path) -> None:
    """Put three things among the videos of a folder that cannot be read."""
    (root / "empty.mp4").touch()
    (root / "page.avi").write_bytes(b"<!doctype html>")
    write_frame_folder(root / "bad", random_clips(1, 9, 8, 8)[0])
    (root / "bad" / "000001.png").write_bytes(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize("side", [REAL, FAKE])
def test_clips_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path, side: str) -> None:
    root = write_videos(tmp_path, [9, 9, 9])
    write_damaged(root)
    clips = FolderClips(root, FVD.changed(num=4, num_frames=9, interval=1, seed=2), REAL)
    assert len(list(clips)) == clips.report().samples == 3
    assert clips.report().damaged == 3
    enough = FolderClips(root, FVD.changed(num=3, num_frames=9, interval=1, seed=2), side)
    assert len(list(enough)) == 3


def test_pictures_that_cannot_be_read_give_their_place_to_others(tmp_path: Path) -> None:
    root = write_videos(tmp_path, [9, 9])
    write_damaged(root)
    pictures = FolderClips(root, find_protocol("fid").changed(num=26), FAKE)
    assert len(list(pictures)) == 26  # of 27 listed, one of which cannot be read
    assert pictures.report().damaged == 3
    with pytest.raises(InvalidInputError, match="holds 26 frames, and 3 that cannot be read"):
        list(FolderClips(root, find_protocol("fid").changed(num=27), FAKE))
