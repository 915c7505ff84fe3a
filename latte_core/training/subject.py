"""What a run trains: a transformer of its own, or one that is there, and the models around it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..checkpoint.conversion.dit_init import initialize_from_dit
from ..checkpoint.conversion.pixart_init import initialize_from_pixart
from ..checkpoint.lora.writer import LoraBase, base_of
from ..checkpoint.reading.reader import read_tensors
from ..config.latte import LatteConfig
from ..config.t2v import LatteT2VConfig
from ..errors import IncompatibleInputsError
from ..memory import KEEP_ALL
from ..model.latte.transformer import Latte
from ..model.t2v.transformer import LatteT2V
from ..model.weights.lora import add_lora
from ..model.weights.resize import resize
from ..pipelines.classes.pipeline import ClassPipeline
from ..pipelines.model_folders import (
    TEXT_FOLDER,
    is_class_model,
    locate,
    locate_class_model,
    read_card,
)
from ..pipelines.text.pipeline import Pipeline
from ..shipped import CLASS_STARTER, STARTER, STARTER_FOLDER
from ..text.t5 import TextEncoder
from ..vae.frames import VideoVAE
from .initial_weights import initialize_class, initialize_text
from .train_config import TrainConfig

CLASS_KEYS = {"conditioning", "num_classes", "extras", "model", "variant", "depth", "input_size"}
ENDS = ("pos_embed.", "proj_out.", "x_embedder.", "final_layer.linear.")
END_TABLE = "scale_shift_table"


@dataclass(kw_only=True, slots=True)
class Subject:
    """The transformer of a run, with the pipeline that uses it.

    Args:
        transformer: LatteT2V or Latte in float32; what is trained of it requires gradients.
        pipeline: makes samples with it; text encoder and VAE are those of the base model.
        base: what the run started from.
        source: the folder or word that text encoder and VAE come from.
    """

    transformer: nn.Module
    pipeline: Pipeline | ClassPipeline
    base: LoraBase
    source: str

    @property
    def task(self) -> str:
        """ "text", "class" or "unconditional"."""
        if isinstance(self.transformer, LatteT2V):
            return "text"
        config: Any = self.transformer.config
        return "class" if config.conditioning == "class" else "unconditional"

    @property
    def text_width(self) -> int | None:
        """Width of the captions that it reads."""
        config: Any = self.transformer.config
        return config.caption_channels if self.task == "text" else None

    @property
    def num_classes(self) -> int:
        """Its classes; 0 for a model without."""
        config: Any = self.transformer.config
        return config.num_classes if self.task == "class" else 0

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of its classes in the order of labels; empty if they have none."""
        return self.pipeline.class_names if isinstance(self.pipeline, ClassPipeline) else ()

    @property
    def has_null_class(self) -> bool:
        """Whether a class can be hidden."""
        config: Any = self.transformer.config
        return self.task == "class" and config.has_null_class

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        config: Any = self.transformer.config
        return config.in_channels

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters that are trained, by name."""
        named = self.transformer.named_parameters()
        return {name: value for name, value in named if value.requires_grad}


def is_end(name: str) -> bool:
    """Return whether a parameter belongs to the first or the last layer."""
    return name.startswith(ENDS) or name == END_TABLE


def parameter_groups(subject: Subject, slow_ends: float) -> list[dict[str, Any]]:
    """Return the trained parameters in groups with a `share` of the learning rate each."""
    trained = subject.trained().items()
    ends = [value for name, value in trained if is_end(name)]
    inner = [value for name, value in trained if not is_end(name)]
    groups = [{"params": inner, "share": 1.0}, {"params": ends, "share": slow_ends}]
    return [group for group in groups if group["params"]]


def num_parameters(parameters: dict[str, nn.Parameter]) -> int:
    """Return how many numbers are trained."""
    return sum(value.numel() for value in parameters.values())


def open_subject(config: TrainConfig, device: torch.device | str) -> Subject:
    """Make or load what a run trains.

    Raises:
        InvalidInputError, CheckpointError: for a model or config that cannot be used.
        IncompatibleInputsError: for image weights of another size or kind, or an adapter for a
            new model.
    """
    if config.architecture is not None:
        subject = make_new(config, device)
    elif is_class_model(config.model):
        pipeline = ClassPipeline.from_pretrained(
            config.model, dtype=torch.float32, device=device, memory=KEEP_ALL
        )
        subject = Subject(
            transformer=pipeline.parts.transformer,
            pipeline=pipeline,
            base=named_base(config.model, locate_class_model(config.model)[0]),
            source=config.model,
        )
    else:
        text = Pipeline.from_pretrained(
            config.model, dtype=torch.float32, device=device, memory=KEEP_ALL
        )
        subject = Subject(
            transformer=text.parts.transformer,
            pipeline=text,
            base=named_base(config.model, locate(config.model)[0]),
            source=config.model,
        )
    if config.lora is None:
        fit_length(subject.transformer, config.num_frames)
        subject.transformer.requires_grad_(True)
        freeze_tables(subject.transformer)
    else:
        transformer: Any = subject.transformer
        generator = torch.Generator().manual_seed(config.seed)
        add_lora(transformer, config.lora, generator=generator)
    return subject


def named_base(model: str, path: Path) -> LoraBase:
    """Describe a base model, under the name that people know: its word, folder or file."""
    return LoraBase(name=Path(model).name, digest=base_of(path).digest)


def fit_length(transformer: nn.Module, num_frames: int) -> None:
    """Give a Latte the length it is trained at, which is saved with it; pictures need none."""
    if isinstance(transformer, Latte) and transformer.config.has_temporal and num_frames > 1:
        resize(transformer, num_frames=num_frames)


def freeze_tables(transformer: nn.Module) -> None:
    """Keep the position tables of a Latte, which are formulas, out of the training."""
    for name in ("pos_embed", "temp_embed"):
        table: object = getattr(transformer, name, None)
        if isinstance(table, nn.Parameter):
            table.requires_grad_(False)


def make_new(config: TrainConfig, device: torch.device | str) -> Subject:
    """Build a new transformer beside the text encoder and VAE of `config.model`."""
    if config.lora is not None:
        raise IncompatibleInputsError(
            "An adapter changes a trained model, but architecture asks for a new one. Leave one "
            "of lora and architecture out."
        )
    architecture = dict(config.architecture or {})
    is_class = bool(CLASS_KEYS & set(architecture))
    fork = cast(Any, torch.random.fork_rng)  # pyright: ignore[reportUnknownMemberType]
    with fork(devices=[]):  # the caller's random numbers stay as they are
        torch.manual_seed(config.seed)  # pyright: ignore[reportUnknownMemberType]
        if is_class:
            transformer: nn.Module = new_latte(architecture, config)
        else:
            transformer = new_t2v(architecture, config)
    transformer.to(device)
    begun = "nothing" if config.initialize_from is None else Path(config.initialize_from).name
    folder = companions_of(config.model)
    vae = read_vae(folder / "vae", device)
    if isinstance(transformer, Latte):
        pipeline: Pipeline | ClassPipeline = ClassPipeline(transformer, vae=vae)
    else:
        pipeline = Pipeline(
            transformer,
            text_encoder=read_text_encoder(folder / TEXT_FOLDER, device),
            vaes={"image": vae},
        )
    return Subject(
        transformer=transformer, pipeline=pipeline, base=LoraBase(name=begun), source=config.model
    )


def companions_of(source: str) -> Path:
    """Return the folder that a model's text encoder and VAE are in."""
    if source == CLASS_STARTER:
        return STARTER_FOLDER
    found = locate(source)[1]
    uses_starter = (found / "card.json").is_file() and read_card(found).get("vae") == STARTER
    return STARTER_FOLDER if uses_starter else found


def read_vae(folder: Path, device: torch.device | str) -> VideoVAE:
    """Open a VAE in float32."""
    return VideoVAE.from_folder(folder, read=tensors_of, dtype=torch.float32, device=device)


def read_text_encoder(folder: Path, device: torch.device | str) -> TextEncoder:
    """Open a text encoder in float32."""
    return TextEncoder.from_folder(folder, read=tensors_of, dtype=torch.float32, device=device)


def tensors_of(path: Path) -> dict[str, Tensor]:
    """Read a weights file or folder."""
    return read_tensors(path).tensors


def new_latte(architecture: dict[str, Any], config: TrainConfig) -> Latte:
    """Build a Latte with the initial weights of docs/model.md 2.7, or from a DiT's."""
    model = Latte.from_config(LatteConfig.from_dict(architecture))
    if config.initialize_from is not None:
        initialize_from_dit(model, config.initialize_from)
    elif config.pass_through:
        initialize_class(model)
    return model


def new_t2v(architecture: dict[str, Any], config: TrainConfig) -> LatteT2V:
    """Build a LatteT2V with idle blocks, or from PixArt-alpha's weights."""
    model = LatteT2V.from_config(LatteT2VConfig.from_dict(architecture))
    if config.initialize_from is not None:
        initialize_from_pixart(model, config.initialize_from)
    else:
        initialize_text(model, pass_through=config.pass_through)
    return model
