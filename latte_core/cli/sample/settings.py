"""What a `sample` run is asked for: options, presets and settings files joined into one record."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from ...errors import InvalidInputError
from .cache import cache_of
from .lora import lora_of
from .memory import checked_chunk

if TYPE_CHECKING:
    from ...acceleration.settings import CacheSettings

TEXT, CLASSES, UNCONDITIONAL = "text", "class", "unconditional"
# What the authors' settings are for, in words.
KINDS = {
    TEXT: "a text-to-video model",
    CLASSES: "a class-conditional model",
    UNCONDITIONAL: "an unconditional model",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings of a run; None and () are left to the model.

    Args:
        source: what to call these settings in messages.
        kind: a key of `KINDS`, where only such a model fits.
        model: path, or the name of a starter.
        vae: `image`, `temporal`, or a path.
        config: shape of the network, for files that do not show it.
        loras: path and strength of each LoRA.
        prompts, classes: what to show.
        negative: what to stay away from.
        seed: of the first video.
        num: how many videos.
        batch: how many of them are made together.
        num_for_folder: how many if a folder is to be filled and `num` is left out.
        steps: a number, or a step string.
        guidance, sampler, eta, frames, height, width, fps, temporal_attention, decode_chunk: as
            the options.
        half: run in float16 on an accelerator, as the authors do.
        compiled, cuda_graph, kernels, fuse_qkv: how to run the same computation faster.
        cache: how to compute less of each run.
        precision, text_precision: how exactly transformer and text encoder compute.
        memory: a preset of `memory.PRESETS`, or `auto`.
        embedding_cache: where encoded prompts are kept: `on`, `off` or a folder.
        betas: first and last beta, and how they rise, that the model must have been trained with.
    """

    source: str | None = None
    kind: str | None = None
    model: str | None = None
    vae: str | None = None
    config: Mapping[str, Any] | None = None
    loras: tuple[tuple[str, float], ...] = ()
    prompts: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    negative: str | None = None
    seed: int | None = None
    num: int | None = None
    batch: int | None = None
    num_for_folder: int | None = None
    steps: str | None = None
    guidance: float | None = None
    sampler: str | None = None
    eta: float | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    fps: float | None = None
    temporal_attention: bool | None = None
    decode_chunk: int | None = None
    half: bool | None = None
    compiled: bool | None = None
    cuda_graph: bool | None = None
    kernels: bool | str | None = None
    fuse_qkv: bool | None = None
    cache: CacheSettings | None = None
    precision: str | None = None
    text_precision: str | None = None
    memory: str | None = None
    embedding_cache: str | None = None
    betas: tuple[float, float, str] | None = field(default=None)

    def over(self, other: Settings) -> Settings:
        """Return these settings, with what they leave open taken from `other`."""
        joined = {
            one.name: getattr(other, one.name)
            if getattr(self, one.name) in (None, ())
            else getattr(self, one.name)
            for one in fields(self)
        }
        return Settings(**joined)


CLASS_RUN = Settings(sampler="ddpm", steps="250", fps=8, vae="image", half=True)
TEXT_RUN = Settings(
    kind=TEXT, sampler="ddim", steps="50", guidance=7.5, fps=8, temporal_attention=True, half=True
)
# The authors' settings (docs/model.md 7.3, 7.4). Length and size are those a model was trained on.
PRESETS: dict[str, Settings] = {
    "ffs": Settings(kind=UNCONDITIONAL, guidance=1.0).over(CLASS_RUN),
    "sky": Settings(kind=UNCONDITIONAL, guidance=1.0).over(CLASS_RUN),
    "taichi": Settings(kind=UNCONDITIONAL, guidance=1.0).over(CLASS_RUN),
    "ucf101": Settings(kind=CLASSES, guidance=7.0, classes=("random",)).over(CLASS_RUN),
    "t2v": Settings(vae="temporal").over(TEXT_RUN),
    "t2i": Settings(vae="image", frames=1).over(TEXT_RUN),
}
RELEASED = {CLASSES: "ucf101.pt", UNCONDITIONAL: "ffs.pt, skytimelapse.pt or taichi-hd.pt"}


def from_arguments(arguments: argparse.Namespace, prompts: tuple[str, ...]) -> Settings:
    """Return what the options say.

    Args:
        arguments: parsed options of `sample`.
        prompts: the one given, or those of the file that was given.
    """
    return Settings(
        model=arguments.model,
        vae=arguments.vae,
        loras=tuple(lora_of(text) for text in arguments.lora or ()),
        prompts=prompts,
        classes=tuple(arguments.classes or ()),
        negative=arguments.negative,
        seed=arguments.seed,
        num=arguments.num,
        batch=arguments.batch,
        steps=arguments.steps,
        guidance=arguments.guidance,
        sampler=arguments.sampler,
        eta=arguments.eta,
        frames=arguments.frames,
        height=arguments.height,
        width=arguments.width,
        fps=arguments.fps,
        temporal_attention=arguments.temporal_attention,
        decode_chunk=checked_chunk(arguments.decode_chunk),
        compiled=arguments.compile,
        cuda_graph=arguments.cuda_graph,
        kernels=arguments.kernels,
        fuse_qkv=arguments.fuse_qkv,
        cache=cache_of(arguments),
        precision=arguments.precision,
        text_precision=arguments.text_precision,
        memory=arguments.memory,
        embedding_cache=arguments.embedding_cache,
    )


def preset(name: str) -> Settings:
    """Return the settings of a preset, under the name it is given by."""
    return Settings(source=f"The preset {name}").over(PRESETS[name])


def require_model(settings: Settings) -> None:
    """Refuse settings without a model if none that ships with this package fits them.

    Raises:
        InvalidInputError: naming the files that fit.
    """
    if settings.model is not None or settings.kind not in RELEASED:
        return
    raise InvalidInputError(
        f"{settings.source} is for {KINDS[settings.kind]} of the authors, which does not ship with "
        f"this package. Give the path of {RELEASED[settings.kind]} as --model; they are published "
        "as maxin-cn/Latte."
    )


def require_kind(settings: Settings, found: str, model: str) -> None:
    """Refuse a model that the settings were not made for.

    Args:
        found: what the model is, a key of `KINDS`.
        model: what to call it.

    Raises:
        InvalidInputError: saying what is expected and found.
    """
    if settings.kind in (None, found):
        return
    raise InvalidInputError(
        f"{settings.source} is for {KINDS[settings.kind or found]}, but {model} is {KINDS[found]}. "
        "Give another --model, or leave these settings out."
    )
