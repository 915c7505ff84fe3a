"""The feature networks by name, and loading their weights from a safetensors file.

No weights ship with this package and none are downloaded; docs/evaluation.md says where they come
from and how they become safetensors files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from ..checkpoint import FileKind, read_header, read_tensors
from ..errors import (
    IncompatibleInputsError,
    InvalidInputError,
    UnknownArchitectureError,
    WeightMismatchError,
)
from .c3d import C3D
from .i3d import I3D
from .inception_v3 import InceptionV3
from .random_network import RandomNetwork

RANDOM = "random"
PAGE = "docs/evaluation.md says how to make the file"
COUNTER = ".num_batches_tracked"  # of torch's batch normalisation; says nothing about the features
CHUNK = 2**22
LISTED = 3


class FeatureNetwork(Protocol):
    """What a metric needs of a network."""

    @property
    def num_features(self) -> int:
        """Numbers for each sample."""
        ...

    def __call__(self, frames: Tensor) -> Tensor:
        """Return (N, D) float32 for clips (N, F, H, W, 3) of bytes."""
        ...


class Classifier(FeatureNetwork, Protocol):
    """What an Inception Score needs of a network."""

    def probabilities(self, frames: Tensor) -> Tensor:
        """Return (N, classes) float32; every row adds up to 1."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkKind:
    """An architecture.

    Args:
        name: what it is called in messages and results.
        title: in full.
        sees: `clips`, `pictures`, or `both`.
        classifies: whether it gives probabilities.
        build: makes the module.
        mark: a tensor that only this network has; None for a network without a file.
    """

    name: str
    title: str
    sees: str
    classifies: bool
    build: Callable[[], nn.Module]
    mark: str | None


NETWORKS: dict[str, NetworkKind] = {
    kind.name: kind
    for kind in (
        NetworkKind(
            name="i3d",
            title="I3D trained on Kinetics-400",
            sees="clips",
            classifies=False,
            build=I3D,
            mark="Conv3d_1a_7x7.conv3d.weight",
        ),
        NetworkKind(
            name="inception",
            title="InceptionV3 of inception-2015-12-05",
            sees="pictures",
            classifies=True,
            build=InceptionV3,
            mark="Conv2d_1a_3x3.conv.weight",
        ),
        NetworkKind(
            name="c3d",
            title="C3D finetuned on UCF101",
            sees="clips",
            classifies=True,
            build=C3D,
            mark="conv1a.weight",
        ),
        NetworkKind(
            name=RANDOM,
            title="fixed random convolutions",
            sees="both",
            classifies=False,
            build=RandomNetwork,
            mark=None,
        ),
    )
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """A feature network that is ready to use.

    Args:
        kind: its architecture.
        module: itself, in evaluation mode.
        device: where it runs.
        file: base name of its weights, None for the random network.
        digest: SHA-256 of that file.
    """

    kind: NetworkKind
    module: nn.Module
    device: torch.device
    file: str | None = None
    digest: str | None = None

    @property
    def num_features(self) -> int:
        """Numbers for each sample."""
        return cast("FeatureNetwork", self.module).num_features

    @property
    def is_published(self) -> bool:
        """Whether numbers may be compared with published ones, if protocol and weights agree."""
        return self.kind.name != RANDOM

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> Tensor:
        """Return (N, D) float32 on the CPU for clips (N, F, H, W, 3) of bytes."""
        return cast("FeatureNetwork", self.module)(frames.to(self.device)).float().cpu()

    @torch.no_grad()
    def probabilities(self, frames: Tensor) -> Tensor:
        """Return (N, classes) float32 on the CPU; every row adds up to 1.

        Raises:
            IncompatibleInputsError: if the network does not classify.
        """
        if not self.kind.classifies:
            raise IncompatibleInputsError(
                f"{self.kind.name} gives features, but an Inception Score needs a network that "
                "classifies: inception for pictures, c3d for clips."
            )
        network = cast("Classifier", self.module)
        return network.probabilities(frames.to(self.device)).float().cpu()

    def describe(self) -> str:
        """Say which network this is and what its numbers may be compared with."""
        if self.file is None or self.digest is None:
            return f"{self.kind.name} (fixed random weights: NOT comparable with published numbers)"
        return f"{self.kind.name} from {self.file} (sha256 {self.digest[:12]})"


def load_features(source: str | Path, device: torch.device | str = "cpu") -> Features:
    """Return the network that a safetensors file belongs to, found by its tensors' names.

    Args:
        source: path of the file, or the word `random` for the network that needs none.
        device: where it will run.

    Raises:
        InvalidInputError: if the file is not a safetensors file.
        UnknownArchitectureError: for weights of another network.
        WeightMismatchError: if names or shapes differ from those of the network.
        CheckpointError: for a file that is missing or damaged.
    """
    place = torch.device(device)
    if str(source) == RANDOM:
        kind = NETWORKS[RANDOM]
        return Features(kind=kind, module=kind.build().eval().to(place), device=place)
    path = Path(source)
    if read_header(path).kind is not FileKind.SAFETENSORS:
        raise InvalidInputError(
            f"{path.name} is not a safetensors file, and feature networks are read from nothing "
            f"else. {PAGE}."
        )
    tensors = read_tensors(path).tensors
    kind = _kind_of(path.name, tensors)
    with torch.device("meta"):
        module = kind.build()
    _fill(path.name, kind, module, tensors, place)
    return Features(kind=kind, module=module, device=place, file=path.name, digest=_digest_of(path))


def _kind_of(name: str, tensors: Mapping[str, Tensor]) -> NetworkKind:
    for kind in NETWORKS.values():
        if kind.mark is not None and kind.mark in tensors:
            return kind
    known = "; ".join(f"{kind.title} has {kind.mark}" for kind in NETWORKS.values() if kind.mark)
    raise UnknownArchitectureError(
        f"{name} is not a feature network that this package knows: {known}. {PAGE}."
    )


def _fill(
    name: str,
    kind: NetworkKind,
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    device: torch.device,
) -> None:
    """Give the module its weights: all of them, and nothing else."""
    given = {key: value for key, value in tensors.items() if not key.endswith(COUNTER)}
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    wrong = [key for key in shapes if key not in given]
    wrong += [key for key in given if key not in shapes]
    wrong += [
        f"{key} {tuple(given[key].shape)} instead of {shape}"
        for key, shape in shapes.items()
        if key in given and tuple(given[key].shape) != shape
    ]
    if wrong:
        more = ", ..." if len(wrong) > LISTED else ""
        raise WeightMismatchError(
            f"{name} does not fit {kind.title}: {len(wrong)} tensors are missing, unknown or of "
            f"another shape ({', '.join(wrong[:LISTED])}{more}). {PAGE}."
        )
    ready = {key: given[key].to(device, torch.float32) for key in shapes}
    module.load_state_dict(ready, strict=True, assign=True)
    module.eval().requires_grad_(False)


def _digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, so that a result says which weights it was measured with."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
