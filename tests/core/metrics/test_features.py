"""Loading feature networks: found by their names, strict, and from safetensors alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from latte_test_support.feature_weights import random_clips, random_weights, write_weights
from torch import Tensor

from latte_core.checkpoint import read_tensors, write_safetensors
from latte_core.errors import (
    CheckpointError,
    IncompatibleInputsError,
    InvalidInputError,
    UnknownArchitectureError,
    WeightMismatchError,
)
from latte_core.metrics import load_features


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return random_weights("i3d")


@pytest.fixture(scope="module")
def file(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "i3d.safetensors", weights)


def test_file_is_recognised_and_gives_features(file: Path) -> None:
    features = load_features(file)
    assert (features.kind.name, features.num_features) == ("i3d", 400)
    assert features.is_published
    found = features(random_clips(1, 16, 32, 48))
    assert found.shape == (1, 400) and found.dtype == torch.float32
    assert not found.requires_grad
    assert features.digest is not None and features.digest[:12] in features.describe()


def test_published_pickle_becomes_a_safetensors_file_as_the_page_says(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    """Torch's own batch normalisation counts batches; the counts are left out."""
    counts = {
        key.replace("running_mean", "num_batches_tracked"): torch.tensor(7)
        for key in weights
        if key.endswith("running_mean")
    }
    torch.save({**weights, **counts}, tmp_path / "i3d_pretrained_400.pt")
    with pytest.raises(InvalidInputError, match="not a safetensors file"):
        load_features(tmp_path / "i3d_pretrained_400.pt")
    write_safetensors(
        tmp_path / "i3d.safetensors", read_tensors(tmp_path / "i3d_pretrained_400.pt").tensors
    )
    module = load_features(tmp_path / "i3d.safetensors").module
    assert all(torch.equal(value, weights[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_weights_that_do_not_fit_are_refused_by_name(
    weights: dict[str, Tensor], tmp_path: Path, change: str
) -> None:
    key = "Mixed_4d.b1b.conv3d.weight"
    changed = dict(weights)
    if change == "missing":
        del changed[key]
    elif change == "unknown":
        changed[key := "Mixed_4d.b4.conv3d.weight"] = torch.zeros(2)
    else:
        changed[key] = changed[key][:5].clone()
    file = write_weights(tmp_path / "odd.safetensors", changed)
    with pytest.raises(WeightMismatchError, match=f"I3D.*: 1 tensors .*{key}"):
        load_features(file)


@pytest.mark.parametrize(
    ("mark", "title"),
    [("Conv2d_1a_3x3.conv.weight", "InceptionV3"), ("conv1a.weight", "C3D finetuned on UCF101")],
)
def test_each_network_is_found_by_a_name_of_its_own(tmp_path: Path, mark: str, title: str) -> None:
    file = write_weights(tmp_path / "cut.safetensors", {mark: torch.zeros(2)})
    with pytest.raises(WeightMismatchError, match=title):
        load_features(file)


def test_other_weights_and_missing_files_are_one_sentence(tmp_path: Path) -> None:
    file = write_weights(tmp_path / "other.safetensors", {"weight": torch.zeros(2)})
    with pytest.raises(
        UnknownArchitectureError, match="other.safetensors is not a feature network"
    ):
        load_features(file)
    with pytest.raises(CheckpointError, match="missing.safetensors"):
        load_features(tmp_path / "missing.safetensors")


def test_random_network_needs_no_file_and_says_what_it_is_not() -> None:
    features = load_features("random")
    assert not features.is_published
    assert "NOT comparable" in features.describe()
    assert features(random_clips(2, 3, 16, 20)).shape == (2, 64)
    with pytest.raises(IncompatibleInputsError, match="needs a network that classifies"):
        features.probabilities(random_clips(2, 3, 16, 20))
