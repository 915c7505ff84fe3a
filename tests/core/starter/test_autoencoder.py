"""The starter's autoencoders."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from latte_core.starter import autoencoder as starter_vae


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


def test_images_are_of_all_kinds() -> None:
    specs = starter_vae.random_specs(random.Random(0), 200)
    assert {spec.background for spec in specs} == {"black", "gray", "navy", "brown"}
    assert {len(spec.objects) for spec in specs} == {1, 2}
    assert {one.size_name for spec in specs for one in spec.objects} == {"small", "medium", "big"}
    images = starter_vae.random_images(random.Random(0), 3)
    assert images.shape == (3, 3, 64, 64)
    assert -1 <= float(images.min()) < float(images.max()) <= 1


@pytest.mark.parametrize("ground", [-0.9, 0.2])
def test_errors_on_objects_count_more_on_every_background(ground: float) -> None:
    target = torch.full((1, 3, 8, 8), ground)
    target[..., 3:5, 3:5] = 0.9
    on_object, beside = target.clone(), target.clone()
    on_object[..., 3, 3] += 0.1
    beside[..., 6, 6] += 0.1
    errors = [starter_vae.reconstruction_loss(one, target) for one in (on_object, beside)]
    assert float(errors[0] / errors[1]) == pytest.approx(1 + starter_vae.OBJECT_WEIGHT, rel=1e-4)


def test_latent_noise_is_a_share_of_the_latents_deviation() -> None:
    torch.manual_seed(0)
    latents = 7 * torch.randn(64, 4, 8, 8)
    noise = starter_vae.add_latent_noise(latents) - latents
    assert float(noise.std()) == pytest.approx(7 * starter_vae.LATENT_NOISE, rel=0.05)


def test_training_goes_on_from_given_weights(tmp_path: Path) -> None:
    torch.manual_seed(3)
    source = starter_vae.build_image_vae().state_dict()
    trained = starter_vae.train_image_vae(tmp_path, 1, peak_rate=1e-9, start_from=source)
    for name, value in trained.state_dict().items():
        assert torch.allclose(value, source[name], atol=1e-6), name
