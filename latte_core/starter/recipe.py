"""How the starters are trained: a row of ordinary training runs on drawn clips, easy ones first.

The text starter first sees plain objects without any spread: what the caption names alone decides
every frame, so that each word pays at every noise level. It sees them as single frames, each with
its own place in time, since a single noisy frame does not show which way the object moves. Then
come two objects, sizes and backgrounds, then clips vary more and more, and whole clips come last.
(In one run each: from whole clips of all kinds, direction words had no effect after 5,000 steps;
from single frames of all kinds, without spread, "left" and "right" were the same after 1,000; those
weights, trained on with plain objects alone, told them apart within 200 steps more.)

The more clips of two objects a model had seen, the more it took each colour for the shapes it had
come with: with 35 % of them, 63 % of looks never trained were right, a yellow triangle being drawn
as a square. Clips that name the colour of a shape without a name, or the shape of a colour without
one, are against that: 25 % of them with three such shapes and four such colours made it 87 %, 50 %
with a fifth colour 90 %, 52 % with eight shapes and seven colours 97 % (the same 30 clips each).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..config.latte import LatteConfig
from ..config.t2v import LatteT2VConfig
from .scenes import COLORS, PLAIN, SHAPES, TEXT_MIXTURE, Mixture
from .text_encoder import TEXT_WIDTH

STARTER_CONFIG = LatteT2VConfig(
    num_layers=4,
    num_attention_heads=5,
    attention_head_dim=32,
    cross_attention_dim=160,
    caption_channels=TEXT_WIDTH,
    sample_size=8,
)
CLASS_NAMES = tuple(f"{color} {shape}" for color in COLORS for shape in SHAPES)
CLASS_CONFIG = LatteConfig(
    input_size=8,
    hidden_size=128,
    depth=8,
    num_heads=4,
    num_frames=16,
    conditioning="class",
    num_classes=len(CLASS_NAMES),
)

COMMON: dict[str, Any] = {
    "interval": 1,
    "weighting": "min_snr",
    "variational_weight": 0.1,
    "timestep_draw": "stratified",
    "learning_rate": 1e-3,
    "warm_up": 100,
    "betas": (0.9, 0.99),
    "weight_decay": 0.01,
    "slow_ends": 0.2,
    "clip_norm": 1.0,
    "clip_from": 0,
    "ema_decay": 0.999,
    "ema_warm_up": True,
    "log_every": 50,
    "save_every": 200,
    "keep": 1,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnSet:
    """A set of drawn clips.

    Args:
        name: of its folder.
        count: clips.
        spread: how much they vary, see `make_clip_spec`.
        mixture: which kinds there are.
        allow_held_out: whether all looks are drawn.
    """

    name: str
    count: int
    spread: float
    mixture: Mixture
    allow_held_out: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One run of a starter's training: a drawn set, and settings over `COMMON`."""

    data: str
    settings: dict[str, Any]

    def scaled(self, scale: float) -> Stage:
        """Return the stage with its number of updates times `scale`, at least one."""
        steps = max(int(self.settings["num_steps"] * scale), 1)
        return Stage(data=self.data, settings={**self.settings, "num_steps": steps})


def text_set(name: str, count: int, spread: float, mixture: Mixture = TEXT_MIXTURE) -> DrawnSet:
    """Return a set for the text starter, without the looks that are held out."""
    return DrawnSet(name=name, count=count, spread=spread, mixture=mixture, allow_held_out=False)


def class_set(name: str, count: int, spread: float) -> DrawnSet:
    """Return a set for the class starter: single plain objects of all looks."""
    return DrawnSet(name=name, count=count, spread=spread, mixture=PLAIN, allow_held_out=True)


SINGLE: dict[str, Any] = {"num_frames": 1, "frame_choice": "scattered", "batch_size": 96}
SOME: dict[str, Any] = {"num_frames": 8, "frame_choice": "scattered", "batch_size": 24}
IMAGES: dict[str, Any] = {"num_images": 1, "images_through_temporal": True}

VARIED_MIXTURE = Mixture(sized=0.08, backgrounds=0.08, pairs=0.22, apart=0.52)
TEXT_SETS = (
    text_set("plain", 400, 0.0, PLAIN),
    text_set("fixed", 1200, 0.0),
    text_set("half", 1500, 0.5),
    text_set("free", 6000, 1.0, VARIED_MIXTURE),
)
TEXT_STAGES = (
    Stage(data="plain", settings={**SINGLE, "num_steps": 800}),
    Stage(data="fixed", settings={**SINGLE, "num_steps": 600}),
    Stage(data="half", settings={**SOME, "num_steps": 400}),
    Stage(data="free", settings={**SOME, **IMAGES, "num_steps": 2600}),
    Stage(
        data="free",
        settings={
            **IMAGES,
            "num_frames": 16,
            "batch_size": 16,
            "num_steps": 1200,
            "schedule": "cosine",
        },
    ),
)
CLASS_SETS = (class_set("class_half", 500, 0.5), class_set("class_free", 3000, 1.0))
CLASS_STAGES = (
    Stage(data="class_half", settings={"batch_size": 16, "num_steps": 300}),
    Stage(data="class_free", settings={"batch_size": 16, "num_steps": 6000, "final_decay": 0.5}),
)
