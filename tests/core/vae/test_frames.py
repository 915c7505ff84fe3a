"""Decoding and encoding videos, compared with diffusers' own classes."""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support import tiny_vae
from latte_test_support.tiny_text import read_safetensors
from torch import Tensor

from latte_core.errors import (
    CorruptCheckpointError,
    IncompatibleInputsError,
    InvalidInputError,
    MissingDependencyError,
    NonFiniteError,
    UnknownArchitectureError,
    WeightMismatchError,
)
from latte_core.vae.config import VaeConfig
from latte_core.vae.frames import VideoVAE

BOTH = pytest.mark.parametrize("temporal", [False, True], ids=["image", "temporal"])
# float32 convolutions of other batch sizes round differently; frames lie in [0, 1]
SAME = 1e-5


@pytest.fixture(scope="module")
def references() -> dict[bool, Any]:
    return {temporal: tiny_vae.make_reference(temporal=temporal) for temporal in (False, True)}


@pytest.fixture(scope="module")
def vaes() -> dict[bool, VideoVAE]:
    return {temporal: make_vae(temporal) for temporal in (False, True)}


def make_vae(temporal: bool, **options: Any) -> VideoVAE:
    tensors = tiny_vae.vae_tensors(temporal=temporal)
    return VideoVAE.from_tensors(tensors, tiny_vae.vae_config(temporal=temporal), **options)


def random_latents(batch: int = 2, frames: int = 5, height: int = 6, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(batch, 4, frames, height, width, generator=generator) * 0.5


def random_frames(batch: int = 2, frames: int = 3, height: int = 24, width: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.rand(batch, frames, height, width, 3, generator=generator)


class CountedDecoder:
    """Stands in for a module's `decode`; fails as an accelerator does above a number of pixels."""

    def __init__(self, module: Any, limit: float = float("inf")) -> None:
        self.decode, self.limit = module.decode, limit
        self.shapes: list[tuple[int, ...]] = []
        self.alive: list[weakref.ref[Tensor]] = []
        self.left_over: list[int] = []

    def __call__(self, latents: Tensor, **options: Any) -> Any:
        self.left_over.append(sum(ref() is not None for ref in self.alive))
        self.shapes.append(tuple(latents.shape))
        if latents.numel() / 4 > self.limit:
            held = torch.ones(10)
            self.alive.append(weakref.ref(held))
            raise torch.OutOfMemoryError("no room for the test")
        return self.decode(latents, **options)


@pytest.mark.parity
@BOTH
@pytest.mark.parametrize("frames", [1, 2, 16, 17])
def test_chunks_of_fourteen_equal_diffusers_on_each_video(
    frames: int, temporal: bool, vaes: dict[bool, VideoVAE], references: dict[bool, Any]
) -> None:
    latents = random_latents(frames=frames)

    ours = vaes[temporal].decode(latents, chunk=14)

    assert ours.shape == (2, frames, 24, 32, 3)
    assert ours.dtype == torch.float32
    for video, expected in zip(ours, latents, strict=True):
        reference = tiny_vae.reference_frames(references[temporal], expected, 14)
        assert (video - reference).abs().max() <= SAME


@pytest.mark.parity
@pytest.mark.parametrize("frames", [1, 2, 16, 17])
def test_the_whole_clip_is_the_default_and_equals_one_diffusers_call(
    frames: int, vaes: dict[bool, VideoVAE], references: dict[bool, Any]
) -> None:
    latents = random_latents(frames=frames)

    ours = vaes[True].decode(latents)

    for video, expected in zip(ours, latents, strict=True):
        reference = tiny_vae.reference_frames(references[True], expected, frames)
        assert (video - reference).abs().max() <= SAME
    assert torch.equal(ours, vaes[True].decode(latents, chunk=frames + 3))


def test_chunks_change_a_temporal_clip_so_the_default_matters(vaes: dict[bool, VideoVAE]) -> None:
    latents = random_latents(batch=1, frames=16)

    difference = (vaes[True].decode(latents) - vaes[True].decode(latents, chunk=14)).abs()

    assert difference[:, 14:].max() > 1e-3


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, None])
def test_an_image_vae_does_not_depend_on_how_frames_are_batched(
    chunk: int | None, vaes: dict[bool, VideoVAE]
) -> None:
    latents = random_latents(frames=7)

    whole = vaes[False].decode(latents, chunk=100)

    assert (vaes[False].decode(latents, chunk=chunk) - whole).abs().max() <= SAME


@BOTH
def test_two_videos_equal_each_alone(temporal: bool, vaes: dict[bool, VideoVAE]) -> None:
    latents = random_latents(batch=3)

    together = vaes[temporal].decode(latents)
    alone = torch.cat([vaes[temporal].decode(video[None]) for video in latents])

    assert (together - alone).abs().max() <= SAME


@pytest.mark.parametrize("chunk", [None, 2, 14])
def test_no_decoder_call_mixes_two_videos(
    chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = make_vae(True)
    counted = CountedDecoder(vae.module)
    monkeypatch.setattr(vae.module, "decode", counted)

    vae.decode(random_latents(batch=3, frames=5), chunk=chunk)

    size = min(chunk or 5, 5)
    assert [shape[0] for shape in counted.shapes] == ([size] * (5 // size) + [5 % size or size])[
        : -(-5 // size)
    ] * 3


@BOTH
def test_tiles_come_close_to_the_whole_frame(temporal: bool, vaes: dict[bool, VideoVAE]) -> None:
    latents = random_latents(batch=1, frames=3, height=24, width=20)

    whole = vaes[temporal].decode(latents)
    tiled = vaes[temporal].decode(latents, tile=64)

    # Group norms and the attention in the middle see a tile only, so tiles are never exact.
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().mean() <= 0.02


@BOTH
def test_a_tile_larger_than_the_frame_changes_nothing(
    temporal: bool, vaes: dict[bool, VideoVAE]
) -> None:
    latents = random_latents()

    assert torch.equal(vaes[temporal].decode(latents, tile=32), vaes[temporal].decode(latents))


@BOTH
def test_frames_lie_in_zero_to_one_and_latents_are_untouched(
    temporal: bool, vaes: dict[bool, VideoVAE]
) -> None:
    latents = random_latents() * 20
    before = latents.clone()

    frames = vaes[temporal].decode(latents)

    assert 0 <= frames.min() < frames.max() <= 1
    assert frames.is_contiguous()
    assert torch.equal(latents, before)


@BOTH
def test_r34_out_of_memory_decodes_less_at_a_time_with_one_notice(
    temporal: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    latents = random_latents(batch=2, frames=16, height=8, width=8)
    vae = make_vae(temporal)
    whole = vae.decode(latents, chunk=16)
    limit = 8 * 64 if temporal else 4 * 64  # temporal chunks of 4 read 8 frames with surroundings
    counted = CountedDecoder(vae.module, limit)
    monkeypatch.setattr(vae.module, "decode", counted)

    with caplog.at_level(logging.WARNING, logger="latte"):
        frames = vae.decode(latents, chunk=16)

    # An image VAE is exact. A temporal one sees less of the clip, but has surroundings.
    assert (frames - whole).abs().mean() <= (0.05 if temporal else SAME)
    assert [record.getMessage() for record in caplog.records] == [
        "Not enough memory: decoded 4 frames at a time."
    ]
    assert set(counted.left_over) == {0}
    assert sum(shape[0] * 64 > limit for shape in counted.shapes) == 2  # not tried for video two


@BOTH
def test_r34_out_of_memory_on_one_frame_decodes_tiles(
    temporal: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    latents = random_latents(batch=1, frames=2, height=32, width=24)
    vae = make_vae(temporal)
    whole = vae.decode(latents)
    counted = CountedDecoder(vae.module, 2 * 16 * 16)
    monkeypatch.setattr(vae.module, "decode", counted)

    with caplog.at_level(logging.WARNING, logger="latte"):
        frames = vae.decode(latents)

    assert frames.shape == whole.shape
    assert (frames - whole).abs().mean() <= 0.02
    assert len(caplog.records) == 1
    assert "in tiles of 64 pixels" in caplog.records[0].getMessage()


@BOTH
def test_r33_out_of_memory_that_no_plan_fits_keeps_its_type(
    temporal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = make_vae(temporal)
    monkeypatch.setattr(vae.module, "decode", CountedDecoder(vae.module, 0))

    with pytest.raises(torch.OutOfMemoryError, match="no room for the test"):
        vae.decode(random_latents())


def test_r34_encoding_out_of_memory_encodes_fewer_frames(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vae = make_vae(False)
    frames = random_frames(frames=4)
    whole = vae.encode(frames)
    encode = vae.module.encode

    def limited(pixels: Tensor) -> Any:
        if len(pixels) > 3:
            raise torch.OutOfMemoryError("no room for the test")
        return encode(pixels)

    monkeypatch.setattr(vae.module, "encode", limited)

    with caplog.at_level(logging.WARNING, logger="latte"):
        latents = vae.encode(frames)

    assert (latents - whole).abs().max() <= SAME
    assert [r.getMessage() for r in caplog.records] == [
        "Not enough memory: encoded 2 frames at a time."
    ]


def overflowing(decode: Callable[..., Any], dtypes: tuple[torch.dtype, ...]) -> Any:
    def run(latents: Tensor, **options: Any) -> Any:
        result = decode(latents, **options)
        if latents.dtype in dtypes:
            result.sample[0, 0, 0, 0] = torch.inf
        return result

    return run


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_r32_half_precision_overflow_is_decoded_once_more_in_float32(
    dtype: torch.dtype,
    temporal: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    latents = random_latents()
    vae = make_vae(temporal, dtype=dtype)
    before = {name: value.clone() for name, value in vae.module.state_dict().items()}
    monkeypatch.setattr(vae.module, "decode", overflowing(vae.module.decode, (dtype,)))

    with caplog.at_level(logging.WARNING, logger="latte"):
        frames = vae.decode(latents)

    assert torch.isfinite(frames).all()
    assert (frames - make_vae(temporal).decode(latents)).abs().mean() <= 0.02
    assert len(caplog.records) == 1
    assert vae.dtype == dtype
    after = vae.module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_r32_overflow_in_float32_too_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = make_vae(False, dtype=torch.float16)
    both = (torch.float16, torch.float32)
    monkeypatch.setattr(vae.module, "decode", overflowing(vae.module.decode, both))

    with pytest.raises(NonFiniteError, match="in float32 too"):
        vae.decode(random_latents())

    assert vae.dtype == torch.float16


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_r32_latents_that_are_not_finite_are_not_decoded(
    value: float, vaes: dict[bool, VideoVAE]
) -> None:
    latents = random_latents()
    latents[1, 2, 3, 4, 5] = value

    with pytest.raises(NonFiniteError, match="latents are NaN or infinite"):
        vaes[True].decode(latents)


@BOTH
def test_half_precision_is_close_to_float32(temporal: bool, vaes: dict[bool, VideoVAE]) -> None:
    latents = random_latents()

    half = make_vae(temporal, dtype=torch.bfloat16).decode(latents)

    assert half.dtype == torch.float32
    assert (half - vaes[temporal].decode(latents)).abs().mean() <= 0.02


@BOTH
def test_r26_other_dtypes_and_strides_of_latents_give_the_same_frames(
    temporal: bool, vaes: dict[bool, VideoVAE]
) -> None:
    latents = random_latents().half().float()

    expected = vaes[temporal].decode(latents)

    double = latents.double().requires_grad_()
    strided = latents.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0)
    assert (vaes[temporal].decode(latents.half()) - expected).abs().max() <= SAME
    assert (vaes[temporal].decode(double) - expected).abs().max() <= SAME
    assert (vaes[temporal].decode(strided) - expected).abs().max() <= SAME


@pytest.mark.parity
@BOTH
def test_encoding_takes_the_mode_of_diffusers_posterior(
    temporal: bool, vaes: dict[bool, VideoVAE], references: dict[bool, Any]
) -> None:
    frames = random_frames()

    latents = vaes[temporal].encode(frames)

    pixels = frames.flatten(0, 1).movedim(-1, 1) * 2 - 1
    with torch.no_grad():
        expected = references[temporal].encode(pixels).latent_dist.mode() * 0.18215
    assert latents.shape == (2, 4, 3, 6, 8)
    assert latents.dtype == torch.float32
    assert (latents - expected.unflatten(0, (2, 3)).movedim(1, 2)).abs().max() <= SAME


@pytest.mark.parity
@BOTH
@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_encoding_with_a_generator_draws_diffusers_sample_whatever_the_chunk(
    chunk: int | None, temporal: bool, vaes: dict[bool, VideoVAE], references: dict[bool, Any]
) -> None:
    frames = random_frames()
    state = torch.get_rng_state()

    generator = torch.Generator().manual_seed(7)
    latents = vaes[temporal].encode(frames, generator=generator, chunk=chunk)

    pixels = frames.flatten(0, 1).movedim(-1, 1) * 2 - 1
    with torch.no_grad():
        posterior = references[temporal].encode(pixels).latent_dist
        expected = posterior.sample(torch.Generator().manual_seed(7)) * 0.18215
    assert (latents - expected.unflatten(0, (2, 3)).movedim(1, 2)).abs().max() <= SAME
    assert torch.equal(torch.get_rng_state(), state)


def test_another_scaling_factor_of_the_config_is_used() -> None:
    tensors = tiny_vae.vae_tensors(temporal=False)
    config = tiny_vae.vae_config(temporal=False, scaling_factor=0.5)
    other = VideoVAE.from_tensors(tensors, config)
    latents = random_latents()

    expected = make_vae(False).decode(latents * (0.18215 / 0.5))

    assert other.scaling_factor == 0.5
    assert (other.decode(latents) - expected).abs().max() <= SAME


@BOTH
def test_a_folder_and_a_single_file_give_the_same_vae(temporal: bool, tmp_path: Path) -> None:
    folder = tiny_vae.write_vae_folder(tmp_path / "vae", temporal=temporal)
    latents = random_latents()

    from_folder = VideoVAE.from_folder(folder, read=read_safetensors)
    file = folder / "diffusion_pytorch_model.safetensors"
    from_file = VideoVAE.from_file(file, read=read_safetensors)

    assert from_folder.is_temporal == from_file.is_temporal == temporal
    assert from_folder.config == from_file.config
    assert torch.equal(from_folder.decode(latents), from_file.decode(latents))
    assert not any(value.requires_grad or value.is_meta for value in from_file.module.parameters())


def test_old_attention_names_load(vaes: dict[bool, VideoVAE]) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors: dict[str, Tensor] = {}
    for name, value in tiny_vae.vae_tensors(temporal=False).items():
        for new_part, old_part in old.items():
            name = name.replace(f".{new_part}.", f".{old_part}.")
        tensors[name] = value
    latents = random_latents()

    vae = VideoVAE.from_tensors(tensors, tiny_vae.vae_config(temporal=False))

    assert any(".proj_attn." in name for name in tensors)
    assert torch.equal(vae.decode(latents), vaes[False].decode(latents))


@pytest.mark.parametrize("dropped", [("quant_conv.",), ("quant_conv.", "encoder.")], ids=str)
def test_a_file_without_encoder_decodes_and_says_that_it_cannot_encode(
    dropped: tuple[str, ...], vaes: dict[bool, VideoVAE]
) -> None:
    tensors = tiny_vae.vae_tensors(temporal=True)
    decoder = {name: value for name, value in tensors.items() if not name.startswith(dropped)}

    vae = VideoVAE.from_tensors(decoder)

    assert not vae.can_encode
    assert torch.equal(vae.decode(random_latents()), vaes[True].decode(random_latents()))
    with pytest.raises(IncompatibleInputsError, match="Encode with the image VAE"):
        vae.encode(random_frames())


@pytest.mark.parametrize(
    "shape", [(2, 4, 6, 8), (2, 3, 5, 6, 8), (2, 16, 5, 6, 8), (0, 4, 5, 6, 8), (2, 4, 0, 6, 8)]
)
def test_r25_latents_of_another_shape_are_refused(
    shape: tuple[int, ...], vaes: dict[bool, VideoVAE]
) -> None:
    with pytest.raises(IncompatibleInputsError, match="Latte sampler"):
        vaes[True].decode(torch.zeros(shape))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.zeros(2, 24, 32, 3), "IMAGE batch"),
        (torch.zeros(1, 2, 24, 32, 4), "IMAGE batch"),
        (torch.zeros(1, 2, 24, 32, 3, dtype=torch.uint8), "IMAGE batch"),
        (torch.zeros(1, 0, 24, 32, 3), "nothing to encode"),
        (torch.zeros(1, 2, 25, 32, 3), "height is 25 .* 24 and 28"),
        (torch.zeros(1, 2, 24, 3, 3), "width is 3 .* 4 and 8"),
        (torch.full((1, 2, 24, 32, 3), 255.0), "0 to 1"),
        (torch.full((1, 2, 24, 32, 3), -1.0), "0 to 1"),
        (torch.full((1, 2, 24, 32, 3), float("nan")), "0 to 1"),
    ],
)
def test_r23_frames_that_cannot_be_encoded_are_refused(
    frames: Tensor, message: str, vaes: dict[bool, VideoVAE]
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        vaes[False].encode(frames)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk": 0}, "chunk"),
        ({"chunk": -1}, "chunk"),
        ({"chunk": 1.5}, "chunk"),
        ({"tile": 0}, "tile"),
        ({"tile": 16}, "tile"),
        ({"tile": 66}, "tile is 66 .* 64 and 68"),
    ],
)
def test_r22_chunk_and_tile_out_of_range_are_refused(
    options: dict[str, Any], message: str, vaes: dict[bool, VideoVAE]
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        vaes[True].decode(random_latents(), **options)


@BOTH
def test_r41_progress_rises_and_ends_at_all(temporal: bool, vaes: dict[bool, VideoVAE]) -> None:
    told: list[tuple[int, int]] = []

    vaes[temporal].decode(
        random_latents(frames=5, height=16), chunk=2, tile=32, callback=lambda *n: told.append(n)
    )

    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert {total for _, total in told} == {len(told)}


def test_r41_progress_never_goes_back_when_memory_runs_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vae = make_vae(False)
    counted = CountedDecoder(vae.module, 2 * 48)
    monkeypatch.setattr(vae.module, "decode", counted)
    told: list[float] = []

    vae.decode(random_latents(), chunk=5, callback=lambda done, total: told.append(done / total))

    assert told == sorted(told)
    assert told[-1] == 1


@BOTH
@pytest.mark.parametrize("stop", [1, 2, 4])
def test_r36_an_exception_of_the_callback_ends_the_run_and_the_next_is_fresh(
    stop: int, temporal: bool, vaes: dict[bool, VideoVAE]
) -> None:
    vae, latents = vaes[temporal], random_latents()
    before = vae.decode(latents, chunk=2)
    reason = KeyboardInterrupt()

    def cancel(done: int, _: int) -> None:
        if done == stop:
            raise reason

    with pytest.raises(KeyboardInterrupt) as caught:
        vae.decode(latents, chunk=2, callback=cancel)

    assert caught.value is reason
    assert torch.equal(vae.decode(latents, chunk=2), before)


def test_encoding_tells_its_progress_and_can_be_cancelled(vaes: dict[bool, VideoVAE]) -> None:
    told: list[tuple[int, int]] = []
    vaes[False].encode(random_frames(), chunk=2, callback=lambda *n: told.append(n))

    def cancel(*_: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        vaes[False].encode(random_frames(), chunk=1, callback=cancel)
    assert told[-1] == (6, 6)


def test_r31_frames_given_are_untouched(vaes: dict[bool, VideoVAE]) -> None:
    frames = random_frames()
    before = frames.clone()
    vaes[False].encode(frames)

    assert torch.equal(frames, before)


@pytest.mark.parametrize("name", ["AutoencoderTiny", "AutoencoderKLWan", 3, None])
def test_r10_another_vae_class_is_refused_by_name(name: object) -> None:
    with pytest.raises(UnknownArchitectureError, match=rf"{name}"):
        VaeConfig.from_dict(tiny_vae.vae_config(temporal=False, _class_name=name))


@pytest.mark.parametrize(
    "change",
    [
        {"latent_channels": 16},
        {"act_fn": "gelu"},
        {"shift_factor": 0.1},
        {"latents_mean": [0.0]},
        {"mid_block_add_attention": False},
        {"down_block_types": ["AttnDownEncoderBlock2D"]},
        {"up_block_types": "UpDecoderBlock2D "},
        {"out_channels": 4},
    ],
    ids=str,
)
def test_r10_a_config_of_another_models_vae_names_the_key(change: dict[str, Any]) -> None:
    with pytest.raises(UnknownArchitectureError, match=next(iter(change))):
        VaeConfig.from_dict(tiny_vae.vae_config(temporal=False, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"block_out_channels": [32, 33]},
        {"block_out_channels": [0]},
        {"block_out_channels": [10**9]},
        {"block_out_channels": []},
        {"block_out_channels": [32] * 99},
        {"block_out_channels": 32},
        {"block_out_channels": ["32"]},
        {"layers_per_block": 0},
        {"layers_per_block": 10**9},
        {"layers_per_block": True},
        {"norm_num_groups": 0},
        {"norm_num_groups": 1.5},
        {"scaling_factor": 0},
        {"scaling_factor": float("nan")},
        {"scaling_factor": "0.18215"},
        {"use_quant_conv": "yes"},
        {"surprise": 1},
    ],
    ids=str,
)
def test_r14_a_hostile_config_value_is_refused_by_name(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=r"channels|" + next(iter(change))):
        VaeConfig.from_dict(tiny_vae.vae_config(temporal=False, **change))


def test_the_temporal_vae_has_thirty_two_groups() -> None:
    with pytest.raises(InvalidInputError, match="norm_num_groups"):
        VaeConfig.from_dict(tiny_vae.vae_config(temporal=True, norm_num_groups=16))


def test_weights_that_are_no_vae_are_refused() -> None:
    with pytest.raises(UnknownArchitectureError, match="not a VAE"):
        VideoVAE.from_tensors({"shared.weight": torch.zeros(3, 3)})


@BOTH
def test_r11_weights_of_the_other_vae_do_not_fit(temporal: bool) -> None:
    tensors = tiny_vae.vae_tensors(temporal=not temporal)

    with pytest.raises(WeightMismatchError, match="do not fit the VAE"):
        VideoVAE.from_tensors(tensors, tiny_vae.vae_config(temporal=temporal))


def test_a_folder_without_config_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(CorruptCheckpointError, match="config.json"):
        VideoVAE.from_folder(tmp_path, read=read_safetensors)


def test_missing_diffusers_is_named_with_the_install_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tensors = tiny_vae.vae_tensors(temporal=False)
    monkeypatch.setitem(sys.modules, "diffusers", None)

    with pytest.raises(MissingDependencyError, match="pip install diffusers"):
        VideoVAE.from_tensors(tensors)


@pytest.mark.parametrize(
    ("temporal", "parameters"), [(False, 83_653_863), (True, 97_742_847)], ids=["image", "temporal"]
)
def test_the_published_vaes_have_the_published_number_of_parameters(
    temporal: bool, parameters: int
) -> None:
    import diffusers

    published = tiny_vae.vae_config(
        temporal=temporal,
        block_out_channels=[128, 256, 512, 512],
        layers_per_block=2,
        down_block_types=["DownEncoderBlock2D"] * 4,
    )
    config = VaeConfig.from_dict(published)
    with torch.device("meta"):
        module = getattr(diffusers, published["_class_name"])(**config.to_dict())

    assert sum(value.numel() for value in module.parameters()) == parameters
    assert VaeConfig.from_tensors(module.state_dict()) == config
    assert config.compression == 8


def test_where_the_vae_is(vaes: dict[bool, VideoVAE]) -> None:
    assert vaes[True].device == torch.device("cpu")
    assert vaes[True].dtype == torch.float32
    assert vaes[True].to("cpu") is vaes[True]
    assert vaes[True].can_encode
