"""The feature networks: shapes, published names and sizes, and no sample depending on its batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from latte_test_support.feature_weights import random_clips, random_weights
from torch import Generator, Tensor, nn

from latte_core.errors import InvalidInputError
from latte_core.metrics import NETWORKS
from latte_core.metrics.c3d import C3D
from latte_core.metrics.i3d import I3D
from latte_core.metrics.inception_v3 import InceptionV3
from latte_core.metrics.layers import FrozenNorm, pad_same, resize_as_tensorflow
from latte_core.metrics.random_network import RandomNetwork

SMALL_EDGE = 32  # of I3D here: the same layers on fewer pixels
RECORDED = 212.3163  # length of the random network's features; only a deliberate change may move it


def filled(module: nn.Module, name: str) -> nn.Module:
    """Give a module made on the meta device random weights."""
    module.load_state_dict(random_weights(name), strict=True, assign=True)
    return module.eval()


@pytest.fixture(scope="module")
def i3d() -> nn.Module:
    with torch.device("meta"):
        module = I3D(SMALL_EDGE)
    return filled(module, "i3d")


@pytest.fixture(scope="module")
def inception() -> nn.Module:
    with torch.device("meta"):
        module = InceptionV3()
    return filled(module, "inception")


@pytest.fixture(scope="module")
def c3d() -> nn.Module:
    with torch.device("meta"):
        module = C3D()
    return filled(module, "c3d")


# Parameters as published for these networks: 12.7 million, torchvision's 23,834,568 of 1000 classes
# and 2049 for each of 8 more, and 78.4 million.
@pytest.mark.parametrize(
    ("name", "parameters", "tensors", "some"),
    [
        ("i3d", 12_697_264, 287, ["Mixed_5c.b2b.bn.running_var", "logits.conv3d.bias"]),
        ("inception", 23_850_960, 472, ["Mixed_7c.branch3x3dbl_3b.conv.weight", "fc.bias"]),
        ("c3d", 78_409_573, 23, ["conv5b.weight", "fc8.bias", "mean"]),
        ("random", 0, 0, []),
    ],
)
def test_networks_have_the_published_size_and_names(
    name: str, parameters: int, tensors: int, some: list[str]
) -> None:
    with torch.device("meta"):
        module = NETWORKS[name].build()
    state = module.state_dict()
    assert sum(value.numel() for value in module.parameters()) == parameters
    assert len(state) == tensors
    assert set(some) <= set(state)


@pytest.mark.parametrize(("frames", "height", "width"), [(16, 40, 30), (9, 32, 32), (24, 20, 50)])
@torch.no_grad()
def test_i3d_gives_400_logits_that_do_not_depend_on_the_batch(
    i3d: nn.Module, frames: int, height: int, width: int
) -> None:
    clips = random_clips(3, frames, height, width)
    together = i3d(clips)
    assert together.shape == (3, 400)
    check_alone(i3d, clips, together)


def check_alone(network: Callable[[Tensor], Tensor], clips: Tensor, together: Tensor) -> None:
    """A sample alone gives what it gives among others, and samples differ."""
    alone = network(clips[1:2])
    assert torch.allclose(alone, together[1:2], rtol=1e-4, atol=1e-5 * float(together.abs().max()))
    assert (together[0] - together[1]).abs().max() > 1e-3 * together.abs().max()


@torch.no_grad()
def test_i3d_sees_the_order_of_frames(i3d: nn.Module) -> None:
    clip = random_clips(1, 16, 32, 32)
    change = (i3d(clip.flip(1)) - i3d(clip)).abs().max()
    assert change > 1e-2 * i3d(clip).abs().max()


def test_i3d_refuses_clips_that_are_too_short(i3d: nn.Module) -> None:
    with pytest.raises(InvalidInputError, match="8 frames, but I3D needs at least 9"):
        i3d(random_clips(1, 8, 32, 32))


@torch.no_grad()
def test_inception_gives_features_and_probabilities_of_each_picture_alone(
    inception: InceptionV3,
) -> None:
    pictures = random_clips(2, 1, 24, 40)
    features = inception(pictures)
    assert features.shape == (2, 2048)
    check_alone(inception, pictures, features)
    found = inception.probabilities(pictures[:1])
    expected = (features[:1] @ inception.fc.weight.T).softmax(1)  # without the bias
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(found.sum(1), torch.ones(1))


@torch.no_grad()
def test_c3d_gives_probabilities_of_each_clip_alone(c3d: C3D) -> None:
    clips = random_clips(2, 16, 30, 40)
    features = c3d(clips)
    assert features.shape == (2, 4096)
    check_alone(c3d, clips, features)
    found = c3d.probabilities(clips[:1])
    expected = (features[:1] @ c3d.fc8.weight.T + c3d.fc8.bias).softmax(1)
    assert found.shape == (1, 101)
    assert torch.allclose(found, expected, atol=1e-6)
    with pytest.raises(InvalidInputError, match="15 frames, but C3D needs 16"):
        c3d.probabilities(clips[:, :15])


def test_c3d_takes_blue_first_and_subtracts_the_mean(c3d: C3D) -> None:
    clip = torch.zeros(1, 16, 20, 30, 3, dtype=torch.uint8)
    clip[..., 0], clip[..., 2] = 200, 50  # red, blue
    prepared = c3d.prepare(clip) + c3d.mean
    assert prepared.shape == (1, 3, 16, 112, 112)
    means = prepared.mean(dim=(0, 2, 3, 4))
    assert torch.allclose(means, torch.tensor([50.0, 0.0, 200.0]), atol=1e-3)


@torch.no_grad()
def test_random_network_is_the_same_everywhere_and_takes_any_clip() -> None:
    state = torch.get_rng_state()
    one, two = RandomNetwork(), RandomNetwork()
    assert torch.equal(torch.get_rng_state(), state)
    clips = random_clips(3, 5, 17, 40)
    together = one(clips)
    assert together.shape == (3, 64)
    assert torch.equal(together, two(clips))
    check_alone(one, clips, together)
    assert one(random_clips(2, 1, 6, 6)).shape == (2, 64)
    assert float(together.norm()) == pytest.approx(RECORDED, rel=1e-4)


def test_frozen_norm_is_torchs_batch_norm_in_evaluation() -> None:
    usual, frozen = nn.BatchNorm3d(4, eps=1e-3).eval(), FrozenNorm(4)
    generator = Generator().manual_seed(1)
    values = torch.rand(2, 4, 3, 5, 6, generator=generator)
    state = {key: torch.rand(4, generator=generator) + 0.5 for key in frozen.state_dict()}
    frozen.load_state_dict(state)
    usual.load_state_dict(state, strict=False)
    with torch.no_grad():
        assert torch.allclose(frozen(values), usual(values), atol=1e-6)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "before", "after"),
    [(16, 7, 2, 2, 3), (17, 7, 2, 3, 3), (8, 3, 1, 1, 1), (7, 2, 2, 0, 1), (8, 1, 1, 0, 0)],
)
def test_padding_puts_the_larger_half_behind(
    size: int, kernel: int, stride: int, before: int, after: int
) -> None:
    values = torch.ones(1, 1, size, 4, 4)
    padded = pad_same(values, (kernel, 1, 1), (stride, 1, 1))[0, 0, :, 0, 0]
    assert padded.tolist() == [0] * before + [1] * size + [0] * after
    assert (len(padded) - kernel) // stride + 1 == -(-size // stride)


def test_resizing_puts_cells_where_tensorflow_does() -> None:
    ramp = torch.tensor([0.0, 10.0]).expand(1, 1, 3, 2)
    assert resize_as_tensorflow(ramp, 4)[0, 0, 0].tolist() == [0.0, 5.0, 10.0, 10.0]
    column = torch.tensor([0.0, 3.0, 6.0]).view(1, 1, 3, 1).expand(1, 1, 3, 2)
    assert resize_as_tensorflow(column, 2)[0, 0, :, 0].tolist() == [0.0, 4.5]
    same = torch.rand(1, 3, 7, 7, generator=Generator().manual_seed(2))
    assert torch.equal(resize_as_tensorflow(same, 7), same)
