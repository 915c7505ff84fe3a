"""The training machinery, run for single steps: each part is written, loads and resumes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from latte_core.checkpoint import read_tensors
from latte_core.model.latte import Latte
from latte_core.model.latte_t2v import LatteT2V
from latte_core.training import starter, starter_class, starter_text, starter_vae
from latte_core.training.drawing import make_clip_spec
from latte_core.training.starter_class import CLASS_CONFIG
from latte_core.training.starter_clips import clip_spec
from latte_core.training.starter_loop import Stage, StarterTrainer
from latte_core.training.starter_noise import spread_timesteps
from latte_core.training.starter_scores import score_starter, total_clips
from latte_core.training.starter_text import TEXT_WIDTH
from latte_core.training.starter_transformer import (
    STARTER_CONFIG,
    initialize,
    make_text_trainer,
    outer_layers,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A starter after one step of each part."""
    base = tmp_path_factory.mktemp("starter")
    starter.train_starter(base / "model", base / "work", steps_scale=1e-9)
    return base


STAGES = (
    Stage(num_steps=2, batch_size=3, num_frames=1, peak_rate=1e-3, spread=0.0),
    Stage(num_steps=2, batch_size=2, peak_rate=1e-3, decay=0.5, image_every=2),
)


def small_trainer(vae: Any, folder: Path, seed: int = 0) -> StarterTrainer:
    tokenizer = starter_text.write_tokenizer(folder / "tokenizer")
    torch.manual_seed(seed)
    encoder = starter_text.build_text_encoder(tokenizer)
    return make_text_trainer(vae, tokenizer, encoder, STAGES, seed=seed, pool_size=4)


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
    for name in ("vae", "vae_temporal_decoder", "tokenizer", "text_encoder"):
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


def test_a_starter_can_be_trained_anew_on_the_vae_of_another(made: Path, tmp_path: Path) -> None:
    starter.train_starter(
        tmp_path / "next",
        tmp_path / "work",
        seed=1,
        steps_scale=1e-9,
        start_from=made / "model",
        keep_transformer=False,
    )
    for name in ("vae", "vae_temporal_decoder", "tokenizer"):
        for path in (made / "model" / name).iterdir():
            assert path.read_bytes() == (tmp_path / "next" / name / path.name).read_bytes()
    before = read_tensors(made / "model" / "text_encoder").tensors
    after = read_tensors(tmp_path / "next" / "text_encoder").tensors
    assert not torch.equal(before["shared.weight"], after["shared.weight"])
    stages = json.loads((tmp_path / "next" / "card.json").read_text())["recipe"]["runs"][1]
    assert stages["image_vae"] == 0
    assert len(stages["stages"]) == len(starter.PLAN.stages)


def test_a_stopped_run_goes_on_to_the_same_bits(
    tmp_path: Path,
) -> None:
    vae = starter_vae.build_image_vae().eval()
    straight = small_trainer(vae, tmp_path)
    straight.run(tmp_path / "straight.pt")
    stopped = small_trainer(vae, tmp_path)
    for _ in range(2):
        stopped.train_step()
    stopped.save(tmp_path / "stopped.pt")
    resumed = small_trainer(vae, tmp_path)
    resumed.run(tmp_path / "stopped.pt")
    for name, value in straight.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name
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
    drawn = spread_timesteps(16, generator)
    assert (drawn // 62.5).long().tolist() == list(range(16))
    many = torch.cat([spread_timesteps(16, generator) for _ in range(500)])
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


def test_a_stage_uses_as_many_frames_as_it_says_in_order() -> None:
    stage = Stage(num_steps=1, batch_size=1, num_frames=2, peak_rate=1.0)
    rows = torch.cat([stage.draw_frames(step, random.Random(step)) for step in range(500)])
    assert rows.unique().tolist() == list(range(16))
    assert bool((rows[:, 0] < rows[:, 1]).all())
    whole = Stage(num_steps=1, batch_size=1, peak_rate=1.0)
    assert whole.draw_frames(0, random.Random(0)).tolist() == [list(range(16))]


def test_a_stage_shows_pictures_among_its_clips() -> None:
    stage = Stage(num_steps=8, batch_size=2, peak_rate=1.0, image_every=4)
    assert [stage.shows_images(step) for step in range(8)] == [False, False, False, True] * 2
    shapes = [tuple(stage.draw_frames(step, random.Random(0)).shape) for step in (2, 3)]
    assert shapes == [(2, 16), (8, 1)]


def test_each_stage_sees_clips_of_its_own_spread(tmp_path: Path) -> None:
    trainer = small_trainer(starter_vae.build_image_vae().eval(), tmp_path)
    for _ in range(2):
        trainer.train_step()
    assert trainer.pool is not None and trainer.pool.spread == 0
    trainer.train_step()
    assert trainer.pool.spread == 1


def test_without_spread_color_shape_and_direction_decide_everything() -> None:
    for number in range(20):
        wide, still = clip_spec(0, number), clip_spec(0, number, spread=0.0)
        named = {"color": wide.color, "shape": wide.shape, "direction": wide.direction}
        assert named == {"color": still.color, "shape": still.shape, "direction": still.direction}
        assert still == make_clip_spec(random.Random(99), **named, spread=0.0)
        assert (wide.size, wide.start) != (still.size, still.start)


def test_new_networks_return_their_input() -> None:
    """Within the unevenness of LayerNorm over the tables, and exactly in the tables' absence."""
    latents = torch.randn(2, 4, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    text = LatteT2V.from_config(STARTER_CONFIG)
    initialize(text)
    classes = Latte.from_config(CLASS_CONFIG)
    starter_class.initialize(classes)
    timesteps = torch.tensor([100, 900])
    with torch.no_grad():
        predicted = text(latents, timesteps, torch.randn(2, 5, TEXT_WIDTH))
        labelled = classes(latents, timesteps, torch.tensor([0, 17]))
    for output in (predicted, labelled):
        assert float((output[:, :4] - latents).square().mean()) < 0.01
        assert not output[:, 4:].any()


def test_outer_layers_follow_more_slowly(tmp_path: Path) -> None:
    trainer = small_trainer(starter_vae.build_image_vae().eval(), tmp_path)
    inner, outer = trainer.optimizer.param_groups
    network: Any = trainer.network
    assert {id(value) for value in outer["params"]} == {
        id(value) for value in outer_layers(network.transformer)
    }
    trainer.train_step()
    assert outer["lr"] == pytest.approx(inner["lr"] * 0.2)


def test_a_stage_warms_up_and_falls_to_zero() -> None:
    stage = Stage(num_steps=1000, batch_size=1, peak_rate=2.0, decay=0.5)
    rates = [stage.rate_at(step) for step in (0, 99, 499, 750, 999)]
    assert rates == pytest.approx([0.02, 2.0, 2.0, 1.0, 0.004])


def test_the_text_encoder_learns_to_tell_words_apart(tmp_path: Path) -> None:
    tokenizer = starter_text.write_tokenizer(tmp_path)
    encoder = starter_text.train_text_encoder(tokenizer, 40, seed=0)
    prompts = [f"a red square moving {word}" for word in ("left", "right", "up", "down")]
    with torch.no_grad():
        rows = encoder(**tokenizer(prompts, return_tensors="pt")).last_hidden_state
    words = rows[:, 4]
    apart = torch.cdist(words, words) + 1e9 * torch.eye(4)
    assert float(apart.min()) > 0.5 * float(words.norm(dim=1).mean())
