"""The parts of a class pipeline: weights, names of the classes, and the VAE beside them.

A folder of such a model holds `transformer/`, and may hold `classes.json` (a list of names in the
order of labels), `card.json` (how to run it best) and `vae/`. A file of the authors, such as
ucf101.pt, needs only a VAE folder next to it, as in the repository it was published in.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from ...checkpoint.loading.loader import load_transformer
from ...checkpoint.recognition.identify import require_vae
from ...config.class_names import known_names
from ...config.latte import LatteConfig
from ...devices import pick_device, pick_dtype
from ...errors import CorruptCheckpointError, IncompatibleInputsError, InvalidInputError
from ...files import MAX_JSON_BYTES
from ...memory import MemoryPlan, PartSizes, Stages, check_memory
from ...model.latte.transformer import Latte
from ...shipped import CLASS_STARTER_FOLDER, STARTER, STARTER_FOLDER, VAE_FOLDERS
from ...text_files import decode_text
from ...types import PIXELS_PER_CELL
from ...vae.frames import VideoVAE
from ..model_folders import locate_class_model, read_card
from ..part_sizes import part_sizes
from ..parts import CommonParts, open_stages
from .vae import check_vae_choice, open_vae, vae_beside

NAMES_FILE = "classes.json"
# Of ucf101_sample.yaml; unconditional models have none (docs/model.md 7.3).
REFERENCE_GUIDANCE = 7.0

logger = logging.getLogger("latte")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassDefaults:
    """What a class model is best run with; the authors' settings where it has no card.

    Args:
        method: `ddpm` or `ddim`.
        steps: a step string such as "250".
        guidance_scale: 1 is off.
        num_frames, height, width: what it was trained on.
        fps: frames per second of its videos.
    """

    method: str = "ddpm"
    steps: str = "250"
    guidance_scale: float = 1.0
    num_frames: int = 16
    height: int = 256
    width: int = 256
    fps: float = 8

    @classmethod
    def of(cls, config: LatteConfig, card: dict[str, Any]) -> ClassDefaults:
        """Return the defaults of a model: its card over what its config says."""
        side = config.input_size * PIXELS_PER_CELL
        known: dict[str, Any] = {
            "guidance_scale": REFERENCE_GUIDANCE if config.has_null_class else 1.0,
            "num_frames": config.num_frames if config.has_temporal else 1,
            "height": side,
            "width": side,
        }
        stated = {one.name: card[one.name] for one in fields(cls) if one.name in card}
        if "steps" in stated:
            stated["steps"] = str(stated["steps"])
        return cls(**{**known, **stated})


class ClassParts(CommonParts, Protocol):
    """The models a class pipeline runs. The VAE may be loaded when it is asked for."""

    @property
    def transformer(self) -> Latte:
        """The Latte."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of labels; empty if there are none."""
        ...

    @property
    def defaults(self) -> ClassDefaults:
        """How to run it best."""
        ...

    def vae(self) -> VideoVAE:
        """Return the VAE, ready to work."""
        ...

    def check_vae(self) -> None:
        """Raise now what `vae` would raise for a VAE that is missing."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenClassParts:
    """Parts that the caller has made."""

    transformer: Latte
    class_names: tuple[str, ...]
    defaults: ClassDefaults
    given_vae: VideoVAE | None
    stages: Stages = field(default_factory=Stages.none)

    def begin_sampling(self) -> None:
        """Do nothing: the transformer is where the caller put it."""

    def vae(self) -> VideoVAE:
        """Return the VAE."""
        if self.given_vae is None:
            raise InvalidInputError(
                "This pipeline was made without a VAE. Give it one, or ask for output='latents'."
            )
        return self.given_vae

    def check_vae(self) -> None:
        """Raise InvalidInputError now if there is no VAE."""
        self.vae()


class ClassFolderParts:
    """Parts of a model's folder or file; the VAE is opened when it is first needed.

    Args:
        source: `class-starter`, a folder with `transformer/` in it, or a transformer file.
        vae: path of a VAE; or `image` or `temporal`, to be found beside the model.
        config: what the file does not say, see `load_transformer`.
        dtype, device, memory: see `ClassPipeline.from_pretrained`.

    Raises:
        InvalidInputError: if `source`, or the VAE that was named, does not exist.
        IncompatibleInputsError: if `source` is a text-to-video model.
        CheckpointError: if the transformer cannot be loaded.
    """

    def __init__(
        self,
        source: str | Path,
        vae: str | Path | None,
        config: Mapping[str, Any] | LatteConfig | None,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
        memory: str | int | MemoryPlan = "auto",
    ) -> None:
        wanted = check_memory(memory)
        path, self.folder = locate_class_model(source)
        self._card = read_card(self.folder)
        self.device = pick_device(device)
        self.dtype = dtype or pick_dtype(self.device, is_small=bool(self._card))
        self._vae_choice = check_vae_choice(vae)
        self._name = path.name
        model: object = load_transformer(path, config, dtype=self.dtype)
        if not isinstance(model, Latte):
            raise IncompatibleInputsError(
                f"{path.name} is a text-to-video model, which is steered by prompts, not classes. "
                "Open it with Pipeline, or give a class-conditional or unconditional model."
            )
        self._transformer = model
        self._names = read_names(self.folder, model.config.num_classes)
        self._vae: VideoVAE | None = None
        self.stages = open_stages(model, wanted, self.device, self._sizes)

    @property
    def transformer(self) -> Latte:
        return self._transformer

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._names

    @property
    def defaults(self) -> ClassDefaults:
        return ClassDefaults.of(self._transformer.config, self._card)

    def vae(self) -> VideoVAE:
        if self._vae is None:
            home = self.stages.home(self.stages.plan.vae)
            self._vae = open_vae(self._vae_path(), self.dtype, home)
        self.stages.use(self._vae.module, self.stages.plan.vae)
        return self._vae

    def begin_sampling(self) -> None:
        self.stages.use(self._transformer, self.stages.plan.transformer)

    def check_vae(self) -> None:
        if self._vae is None:
            require_vae(self._vae_path())

    def _sizes(self) -> PartSizes:
        best = self.defaults
        return part_sizes(
            self._transformer,
            vae_folders=[],
            dtype=self.dtype,
            num_frames=best.num_frames,
            height=best.height,
            width=best.width,
        )

    def _vae_path(self) -> Path:
        if isinstance(self._vae_choice, Path):
            return self._vae_choice
        if self.folder == CLASS_STARTER_FOLDER or self._card.get("vae") == STARTER:
            return STARTER_FOLDER / VAE_FOLDERS[self._vae_choice]
        return vae_beside(self.folder, self._vae_choice, self._name)


def read_names(folder: Path, num_classes: int) -> tuple[str, ...]:
    """Return the names of a model's classes: its own, or those that weights of this kind have.

    A list of another length belongs to another model; it is not used, and the log says so.

    Raises:
        CorruptCheckpointError: if classes.json is not a list of texts.
    """
    path = folder / NAMES_FILE
    if not num_classes or not path.is_file():
        return known_names(num_classes)
    listed = listed_names(folder)
    if len(listed) != num_classes:
        logger.warning(
            "%s in %s has %d names, but the model has %d classes; it is not used.",
            NAMES_FILE,
            folder.name,
            len(listed),
            num_classes,
        )
        return known_names(num_classes)
    return listed


def listed_names(folder: Path) -> tuple[str, ...]:
    """Return the names in a folder's classes.json, empty if it has none.

    Raises:
        CorruptCheckpointError: if classes.json is not a list of texts.
    """
    path = folder / NAMES_FILE
    if not path.is_file():
        return ()
    values: object = None
    if path.stat().st_size <= MAX_JSON_BYTES:
        with suppress(ValueError, RecursionError):
            values = json.loads(decode_text(path.read_bytes(), path.name))
    names = cast("list[object]", values) if isinstance(values, list) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise CorruptCheckpointError(
            f"{path.name} in {path.parent.name} is not a list of names in JSON. Write one name "
            "for each class, or remove the file."
        )
    return tuple(str(name) for name in names)
