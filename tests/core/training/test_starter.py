"""The training machinery, run for single steps: each part is written, loads and resumes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from latte_core.checkpoint import read_tensors
from latte_core.training import starter, starter_text, starter_transformer, starter_vae
from latte_core.training.starter_scores import score_starter, total_clips


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A starter after one step of each part."""
    base = tmp_path_factory.mktemp("starter")
    starter.train_starter(base / "model", base / "work", steps_scale=1e-9)
    return base


def small_trainer(vae: Any, folder: Path, seed: int = 0) -> starter_transformer.StarterTrainer:
    tokenizer = starter_text.write_tokenizer(folder / "tokenizer")
    torch.manual_seed(seed)
    encoder = starter_text.build_text_encoder(tokenizer)
    return starter_transformer.StarterTrainer(
        vae, tokenizer, encoder, seed=seed, peak_rate=1e-3, pool_size=4
    )


def test_a_trained_folder_opens_through_the_ordinary_pipeline(made: Path) -> None:
    from latte_core.pipeline import Pipeline

    result = Pipeline.from_pretrained(made / "model")("a red circle moving left", num_steps=2)
    assert result.frames is not None
    assert result.frames.shape == (16, 64, 64, 3)


def test_the_folder_is_small_enough_to_ship_and_lists_every_file(made: Path) -> None:
    folder = made / "model"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12e6
    digests = json.loads((folder / "digests.json").read_text())
    names = {path.relative_to(folder).as_posix() for path in files} - {"digests.json"}
    assert set(digests) == names


def test_a_starter_can_be_trained_further_from_its_own_files(made: Path, tmp_path: Path) -> None:
    source = made / "model"
    starter.train_starter(
        tmp_path / "next", tmp_path / "work", seed=1, steps_scale=1e-9, start_from=source
    )
    for name in ("vae", "vae_temporal_decoder", "tokenizer"):
        for path in (source / name).iterdir():
            assert path.read_bytes() == (tmp_path / "next" / name / path.name).read_bytes()
    before = read_tensors(source / "transformer").tensors
    after = read_tensors(tmp_path / "next" / "transformer").tensors
    assert {name: value.shape for name, value in before.items()} == {
        name: value.shape for name, value in after.items()
    }
    far = max(float((before[name].float() - after[name].float()).abs().max()) for name in before)
    assert 0 < far < 0.01  # one step at the first rate of the warm-up
    card = json.loads((tmp_path / "next" / "card.json").read_text())
    assert [run["seed"] for run in card["recipe"]["runs"]] == [0, 1]


def test_a_stopped_run_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starter_transformer, "BATCH_SIZE", 2)
    vae = starter_vae.build_image_vae().eval()
    straight = small_trainer(vae, tmp_path)
    straight.run(tmp_path / "straight.pt", 4)
    stopped = small_trainer(vae, tmp_path)
    for _ in range(2):
        stopped.train_step(stopped.rate_at(4))
    stopped.save(tmp_path / "stopped.pt")
    resumed = small_trainer(vae, tmp_path)
    resumed.run(tmp_path / "stopped.pt", 4)
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    for name, value in straight.average.state_dict().items():
        assert torch.equal(value, resumed.average.state_dict()[name]), name


def test_changing_the_latents_units_keeps_reconstructions() -> None:
    torch.manual_seed(0)
    vae = starter_vae.build_image_vae().eval()
    images = starter_vae.random_images(random.Random(0), 4)
    with torch.no_grad():
        before = vae.decode(vae.encode(images).latent_dist.mean).sample
        starter_vae.normalize_latents(vae, num_images=64)
        latents = vae.encode(images).latent_dist.mean
        after = vae.decode(latents).sample
    assert float((after - before).abs().max()) < 1e-3
    assert float(latents.std()) == pytest.approx(1 / 0.18215, rel=0.4)


def test_a_new_temporal_decoder_treats_every_frame_alike() -> None:
    torch.manual_seed(0)
    vae = starter_vae.start_temporal_vae(starter_vae.build_image_vae()).eval()
    with torch.no_grad():
        frame = vae.decode(torch.randn(1, 4, 8, 8).expand(3, -1, -1, -1), num_frames=3).sample
    assert float((frame[0] - frame[2]).abs().max()) < 1e-4


def test_the_tokenizer_knows_every_caption_word_as_one_piece_and_folds_capitals(
    tmp_path: Path,
) -> None:
    tokenizer = starter_text.write_tokenizer(tmp_path)
    ids = tokenizer("a purple triangle moving right").input_ids
    assert len(ids) == 6
    assert tokenizer("A Purple TRIANGLE moving Right").input_ids == ids
    assert tokenizer("").input_ids == [1]
    assert tokenizer.pad_token_id == 0


def test_the_tokenizer_is_the_same_every_time_and_names_no_path(tmp_path: Path) -> None:
    for name in ("first", "second"):
        starter_text.write_tokenizer(tmp_path / name)
    for path in sorted((tmp_path / "first").iterdir()):
        data = path.read_bytes()
        assert data == (tmp_path / "second" / path.name).read_bytes()
        assert b"tmp" not in data


def test_timesteps_cover_the_range_evenly() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = starter_transformer.spread_timesteps(16, generator)
    assert (drawn // 62.5).long().tolist() == list(range(16))
    many = torch.cat([starter_transformer.spread_timesteps(16, generator) for _ in range(500)])
    assert int(many.min()) == 0
    assert int(many.max()) == 999
    assert float(many.float().mean()) == pytest.approx(499.5, abs=2)


def test_scores_are_right_when_clips_show_what_was_asked() -> None:
    """A maker that draws what the prompt says scores full marks; one that ignores it does not."""
    from latte_core.training.drawing import draw_clips, make_clip_spec

    def draw(prompts: Any, negatives: Any, seeds: Any, scale: float) -> torch.Tensor:
        specs = []
        for prompt, negative, seed in zip(prompts, negatives, seeds, strict=True):
            words = prompt.split()
            color = words[1] if scale > 1 and len(words) == 5 and words[1] != "square" else None
            shape = next((word for word in words if word in ("circle", "triangle")), "square")
            direction = words[-1]
            spec = make_clip_spec(
                random.Random(seed), color=color, shape=shape, direction=direction
            )
            if negative and spec.color == negative:
                spec = make_clip_spec(random.Random(seed), color="blue", shape=shape)
            specs.append(spec)
        return draw_clips(specs).permute(0, 1, 3, 4, 2)

    done: list[int] = []
    scores = score_starter(draw, 4.0, num_seeds=1, report=done.append)
    assert (scores.color, scores.shape, scores.direction) == (1.0, 1.0, 1.0)
    assert scores.color_unguided < 0.5
    assert scores.red_with_negative == 0
    assert scores.red_without_negative > 0.05
    assert sum(done) == total_clips(1)
