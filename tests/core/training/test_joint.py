"""What an update is made of: parts of a batch, and images beside clips, each in its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny.training import CLASS_MODEL, TEXT_MODEL, tiny_config, write_set
from torch import Tensor, nn

from latte_core.config.latte import LatteConfig
from latte_core.config.t2v import LatteT2VConfig
from latte_core.model.latte.transformer import Latte
from latte_core.model.t2v.transformer import LatteT2V
from latte_core.training.denoiser import Denoiser
from latte_core.training.examples import Batch, Examples, collate
from latte_core.training.run import open_data
from latte_core.training.run_folder import RunFolder
from latte_core.training.subject import open_subject
from latte_core.training.train_data import TrainData
from latte_core.training.trainer import Trainer
from latte_core.training.workers import OneProcess


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "set"
    write_set(folder, has_flips=True)
    return folder


def examples_of(folder: Path, task: str = "text", **changes: Any) -> Examples:
    config = tiny_config(folder, folder / "run", **changes)
    names = ("ant", "bee", "cat") if task == "class" else ()
    data = TrainData.open(
        [folder],
        config,
        task=task,
        text_width=12 if task == "text" else None,
        num_classes=len(names),
        class_names=names,
    )
    return Examples(data, config, has_null_class=task == "class")


def awake(model: nn.Module) -> nn.Module:
    """Give every weight a value, so that no block is idle."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.2)
    return model


def text_model() -> nn.Module:
    return awake(LatteT2V.from_config(LatteT2VConfig.from_dict(TEXT_MODEL)))


def class_model() -> nn.Module:
    return awake(Latte.from_config(LatteConfig.from_dict(CLASS_MODEL)))


@pytest.mark.parametrize("micro", [0, 1, 2])
def test_an_update_follows_the_gradient_of_the_mean_loss(
    micro: int, folder: Path, tmp_path: Path
) -> None:
    config = tiny_config(folder, tmp_path / "run", micro_batch=micro)
    run, workers = RunFolder(tmp_path / "run"), OneProcess("float32", "cpu")
    run.open(config.to_dict(), frozenset())
    subject = open_subject(config, "cpu")
    data = open_data(config, subject, workers, run, lambda: False)
    trainer = Trainer(config, subject, data, workers, run)
    batch = collate([trainer.examples.make(k) for k in range(4)])
    trained = list(trainer.trained.values())
    found = torch.autograd.grad(trainer.losses(batch)[0].mean(), trained, allow_unused=True)
    norm = torch.stack([one.square().sum() for one in found if one is not None]).sum().sqrt()
    trainer.update(trainer.make_parts(0))
    assert float(trainer.norm) == pytest.approx(float(norm), rel=1e-4)


def of_one(batch: Batch, row: int) -> Batch:
    """Return one clip of a batch, with its images."""
    count = batch.num_images
    images = slice(row * count, (row + 1) * count)
    cut: dict[str, Any] = {
        name: value[row : row + 1]
        for name in Batch.__dataclass_fields__
        if isinstance(value := getattr(batch, name), Tensor)
    }
    cut["numbers"] = batch.numbers[row : row + 1]
    for name in ("image_context", "image_mask"):
        value = getattr(batch, name)
        cut[name] = None if value is None else value[images]
    return replace(batch, **cut)


@pytest.mark.parametrize("task", ["text", "class"])
@torch.no_grad()
def test_images_go_in_with_their_own_clips_timestep_and_condition(task: str, folder: Path) -> None:
    examples = examples_of(folder, task, num_images=2, drop_condition=0.3)
    batch = collate([examples.make(k) for k in range(3)])
    assert len(set(batch.timesteps.tolist())) == 3
    denoiser = Denoiser(text_model() if task == "text" else class_model()).eval()
    together = denoiser(batch.latents, batch)
    for row in range(3):
        one = of_one(batch, row)
        torch.testing.assert_close(
            together[row : row + 1], denoiser(one.latents, one), rtol=1e-4, atol=1e-4
        )


@torch.no_grad()
def test_each_image_has_its_own_text(folder: Path) -> None:
    examples = examples_of(folder, num_images=2, drop_condition=0.0)
    batch = collate([examples.make(k) for k in range(2)])
    assert batch.image_context is not None and batch.image_mask is not None
    denoiser = Denoiser(text_model()).eval()
    together = denoiser(batch.latents, batch)
    for number in range(4):
        row, image = divmod(number, 2)
        alone = denoiser.transformer(
            batch.latents[row : row + 1, :, 4 + image : 5 + image],
            batch.timesteps[row : row + 1],
            batch.image_context[number : number + 1],
            batch.image_mask[number : number + 1],
            False,
        )
        wanted = together[row : row + 1, :, 4 + image : 5 + image]
        torch.testing.assert_close(wanted, alone, rtol=1e-4, atol=1e-4)


def test_half_of_the_images_are_mirrored_each_by_its_own_draw(folder: Path) -> None:
    examples = examples_of(folder, flip=True, num_images=2)
    data = examples.data
    plain = [data.moments(k, range(data.num_frames(k)), flipped=False)[0] for k in range(len(data))]
    frames = {tuple(one.flatten().tolist()) for clip in plain for one in clip}
    counts = {(False, False): 0, (True, False): 0, (False, True): 0, (True, True): 0}
    for k in range(80):
        images = examples.make(k).latents[:, 4:].movedim(1, 0)
        counts[tuple(tuple(one.flatten().tolist()) not in frames for one in images)] += 1
    assert all(8 <= count <= 32 for count in counts.values())


@pytest.mark.parametrize("task", ["text", "class"])
def test_one_draw_hides_a_clips_condition_and_another_that_of_its_images(
    task: str, folder: Path
) -> None:
    hidden = examples_of(folder, task, num_images=2, drop_condition=0.5)
    empty = hidden.data.sets[0].empty_rows() if task == "text" else None
    counts = {(False, False): 0, (True, False): 0, (False, True): 0, (True, True): 0}
    for k in range(80):
        example = hidden.make(k)
        if empty is not None:
            found = [torch.equal(one, empty[: len(one)]) for one in example.contexts]
            assert found[1] == found[2]
            counts[found[0], found[1]] += 1
        else:
            counts[example.is_dropped, example.are_images_dropped] += 1
    assert all(8 <= count <= 32 for count in counts.values())


@torch.no_grad()
def test_the_model_hides_the_class_of_the_clip_or_of_its_images(folder: Path) -> None:
    examples = examples_of(folder, "class", num_images=2, drop_condition=0.0)
    batch = collate([examples.make(k) for k in range(2)])
    denoiser = Denoiser(class_model()).eval()
    shown = denoiser(batch.latents, batch)
    dropped = torch.tensor([[True, False], [False, True]])
    made = denoiser(batch.latents, replace(batch, dropped=dropped))
    assert torch.equal(made[0, :, 4:], shown[0, :, 4:])
    assert not torch.allclose(made[0, :, :4], shown[0, :, :4])
    assert torch.equal(made[1, :, :4], shown[1, :, :4])
    assert not torch.allclose(made[1, :, 4:], shown[1, :, 4:])
