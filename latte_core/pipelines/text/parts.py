"""The parts of a text pipeline: in folders beside a transformer, opened when needed, or given."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ...acceleration.schedule_file import ScheduleFile
from ...checkpoint.loading.loader import load_t2v
from ...checkpoint.reading.reader import read_tensors
from ...checkpoint.recognition.identify import require_t5, require_vae
from ...devices import pick_device, pick_dtype
from ...errors import CheckpointError, InvalidInputError
from ...memory import CPU, MemoryPlan, PartSizes, Stages, check_memory
from ...precision.layers import stored_format
from ...precision.quantize import quantize_text, text_format
from ...sampling import ScheduleSettings
from ...shipped import VAE_FOLDERS
from ...text.cache import CachedEncoder
from ...text.pair import Encoder
from ...text.t5 import TextEncoder
from ...types import PIXELS_PER_CELL
from ...vae.frames import VideoVAE
from ..model_folders import TEXT_FOLDER, locate, optional_json, read_card
from ..part_sizes import part_sizes
from ..parts import CommonParts, open_stages
from .encoder_folder import encoder_identity, make_embedding_cache, with_text_encoder

TEMPORAL_CLASS = "AutoencoderKLTemporalDecoder"
TRAINED_FRAMES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Defaults:
    """What a model is best run with; from its card where it has one.

    Args:
        num_steps, guidance_scale: for its own sampler.
        sampler: a name of `sampling.SAMPLER_NAMES`.
        num_frames, height, width: what it was trained on.
        fps: frames per second of its videos.
    """

    num_steps: int = 50
    guidance_scale: float = 7.5
    sampler: str = "ddim"
    num_frames: int = TRAINED_FRAMES
    height: int = 512
    width: int = 512
    fps: float = 8


class Parts(CommonParts, Protocol):
    """The models a pipeline runs. Text encoder and VAE may be loaded when they are asked for."""

    @property
    def settings(self) -> ScheduleSettings:
        """The noise schedule it was trained with."""
        ...

    @property
    def defaults(self) -> Defaults:
        """How to run it best."""
        ...

    def text_encoder(self) -> TextEncoder:
        """Return the text encoder, ready to work."""
        ...

    def prompt_encoder(self) -> Encoder:
        """Return what encodes prompts: the text encoder, behind a cache if there is one."""
        ...

    def vae(self, kind: str) -> VideoVAE:
        """Return the `temporal` or the `image` VAE, ready to work."""
        ...

    def check(self, vae: str | None, needs_text: bool) -> None:
        """Raise CheckpointError now if a part that will be needed is missing."""
        ...

    def cache_schedules(self, sampler: str, num_steps: int) -> ScheduleFile | None:
        """Return the calibrated cache schedules that the model came with for a run, or None."""
        ...


class FolderParts:
    """Parts in the layout of Latte-1: `transformer/`, `text_encoder/`, `tokenizer/`, `vae/` ...

    Args:
        source: `starter`, a pipeline folder, a transformer folder or a transformer file.
        dtype: of all weights; by default float32 on the CPU and for models with a card, else
            bfloat16 where the device has it and float16 where not.
        device: by default the accelerator if there is one, else the CPU.
        memory: `auto`, the name of a preset, or a plan.
        embedding_cache: see `make_embedding_cache`.
        text_precision: format of the text encoder's layers, or None for `dtype`.

    Raises:
        InvalidInputError: if `source` does not exist, or for a choice that there is not.
        CheckpointError: if the transformer cannot be loaded.
    """

    def __init__(
        self,
        source: str | Path,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
        memory: str | int | MemoryPlan = "auto",
        embedding_cache: str | Path = "memory",
        text_precision: str | None = None,
    ) -> None:
        wanted = check_memory(memory)
        self._text_precision = text_precision and text_format(text_precision)
        self._cache = make_embedding_cache(embedding_cache)
        self._cached: CachedEncoder | None = None
        self._transformer_path, self.companions = locate(source)
        self._card = read_card(self.companions)
        self.device = pick_device(device)
        self.dtype = dtype or pick_dtype(self.device, is_small=bool(self._card))
        self._settings = ScheduleSettings.from_dict(
            optional_json(self.companions / "scheduler" / "scheduler_config.json")
        )
        self._transformer = load_t2v(self._transformer_path, dtype=self.dtype)
        self.stages = open_stages(self._transformer, wanted, self.device, self._sizes)
        self._text_encoder: TextEncoder | None = None
        self._vaes: dict[str, VideoVAE] = {}

    @property
    def transformer(self) -> nn.Module:
        return self._transformer

    @property
    def settings(self) -> ScheduleSettings:
        return self._settings

    @property
    def defaults(self) -> Defaults:
        config: Any = self._transformer.config
        side = config.sample_size * PIXELS_PER_CELL
        known = {"height": side, "width": side}
        names = Defaults.__dataclass_fields__
        return Defaults(**{**known, **{key: self._card[key] for key in names if key in self._card}})

    def text_encoder(self) -> TextEncoder:
        if self._text_encoder is None:
            folder = self._companion(TEXT_FOLDER, "a text encoder")
            home = self.stages.home(self.stages.plan.text)
            # unpacked weights never lie on the device: they may not fit there
            first = home if self._text_precision is None else CPU
            self._text_encoder = TextEncoder.from_folder(
                folder, read=_tensors, dtype=self.dtype, device=first
            )
            wanted, module = self._text_precision, self._text_encoder.module
            if wanted is not None and wanted != stored_format(module):
                quantize_text(module, wanted)
            self._text_encoder.to(home)
        self.stages.use(self._text_encoder.module, self.stages.plan.text)
        return self._text_encoder

    def prompt_encoder(self) -> Encoder:
        if self._cache is None:
            return self.text_encoder()
        if self._cached is None:
            text = self._companion(TEXT_FOLDER, "a text encoder")
            tokenizer = self._companion("tokenizer", "a tokenizer")
            device = CPU if self.stages.plan.text == CPU else self.device.type
            identity = encoder_identity(text, tokenizer, self.dtype, device)
            if self._text_precision is not None:
                identity = {**identity, "precision": self._text_precision}
            self._cached = CachedEncoder(self._cache, identity, self.text_encoder)
        return self._cached

    def begin_sampling(self) -> None:
        self.stages.use(self._transformer, self.stages.plan.transformer)

    def vae(self, kind: str) -> VideoVAE:
        if kind not in self._vaes:
            folder, home = self._vae_folder(kind), self.stages.home(self.stages.plan.vae)
            self._vaes[kind] = VideoVAE.from_folder(
                folder, read=_tensors, dtype=self.dtype, device=home
            )
        self.stages.use(self._vaes[kind].module, self.stages.plan.vae)
        return self._vaes[kind]

    def check(self, vae: str | None, needs_text: bool) -> None:
        if needs_text and self._text_encoder is None:
            text = self._companion(TEXT_FOLDER, "a text encoder")
            require_t5(text)
            self._companion("tokenizer", "a tokenizer")
        if vae is not None and vae not in self._vaes:
            require_vae(self._vae_folder(vae))

    def cache_schedules(self, sampler: str, num_steps: int) -> ScheduleFile | None:
        return ScheduleFile.beside(self.companions, sampler, num_steps)

    def _sizes(self) -> PartSizes:
        best = self.defaults
        sizes = part_sizes(
            self._transformer,
            vae_folders=[self.companions / name for name in VAE_FOLDERS.values()],
            dtype=self.dtype,
            num_frames=best.num_frames,
            height=best.height,
            width=best.width,
        )
        text = self.companions / TEXT_FOLDER
        return with_text_encoder(sizes, text, self.dtype, self._text_precision)

    def _vae_folder(self, kind: str) -> Path:
        """Return the VAE's folder; a pipeline saved by diffusers may hold either kind in `vae`."""
        plain = self.companions / VAE_FOLDERS["image"]
        found = str(optional_json(plain / "config.json").get("_class_name", ""))
        if found != TEMPORAL_CLASS:
            return self._companion(VAE_FOLDERS[kind], f"the {kind} VAE")
        if kind == "image":
            raise CheckpointError(
                f"The folder vae of {self.companions.name} holds a temporal VAE, but the image VAE "
                "was asked for. Choose the temporal VAE."
            )
        own = self.companions / VAE_FOLDERS["temporal"]
        return own if own.is_dir() else plain

    def _companion(self, name: str, purpose: str) -> Path:
        folder = self.companions / name
        if not folder.is_dir():
            other = name == VAE_FOLDERS["temporal"] and (self.companions / "vae").is_dir()
            advice = ", or choose the image VAE, which is there" if other else ""
            raise CheckpointError(
                f"{self._transformer_path.name} needs {purpose}, but the folder "
                f"{self.companions.name or '.'} has no {name} in it. Put the {name} folder of "
                f"Latte-1 there{advice}, or name a whole Latte-1 folder as the model."
            )
        return folder


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenParts:
    """Parts that the caller has made.

    Args:
        transformer: a LatteT2V.
        encoder: its text encoder, or None if prompts come as embeddings.
        vaes: VAEs by kind, `temporal` or `image`; may be empty for latents only.
        settings: noise schedule.
        defaults: how to run it best.
    """

    transformer: nn.Module
    encoder: TextEncoder | None
    vaes: dict[str, VideoVAE]
    settings: ScheduleSettings
    defaults: Defaults
    stages: Stages = field(default_factory=Stages.none)

    def text_encoder(self) -> TextEncoder:
        """Return the text encoder."""
        if self.encoder is None:
            raise InvalidInputError(
                "This pipeline was made without a text encoder. Pass prompt_embeds, "
                "and negative_embeds when guidance is on."
            )
        return self.encoder

    def prompt_encoder(self) -> Encoder:
        """Return the text encoder."""
        return self.text_encoder()

    def begin_sampling(self) -> None:
        """Do nothing: the transformer is where the caller put it."""

    def vae(self, kind: str) -> VideoVAE:
        """Return the `temporal` or the `image` VAE."""
        if kind not in self.vaes:
            raise InvalidInputError(
                f"This pipeline was made without the {kind} VAE; it has "
                f"{' and '.join(self.vaes) or 'none'}. Choose another, or output='latents'."
            )
        return self.vaes[kind]

    def check(self, vae: str | None, needs_text: bool) -> None:
        """Raise InvalidInputError now if a part that will be needed is missing."""
        if needs_text:
            self.text_encoder()
        if vae is not None:
            self.vae(vae)

    def cache_schedules(self, sampler: str, num_steps: int) -> ScheduleFile | None:
        """Return None: parts that the caller made came with no schedules."""
        return None


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    return read_tensors(path).tensors
