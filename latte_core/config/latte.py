"""Configuration of the class-conditional and unconditional Latte, with the paper's variants.

Source: the settings of the released models (docs/model.md 1, 2.1) and of the paper's ablations
(docs/model.md 4). The released weights are variant 1 with every other choice at its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..checks import is_number, is_whole
from ..errors import InvalidInputError
from .checks import check_whole, refuse_unknown, used_settings

TITLE = "The Latte config"
CLASS_NAME = "Latte"
CONDITIONINGS = ("none", "class", "clip_text")
INJECTIONS = ("adaln", "tokens")
TEMPORAL_POSITIONS = ("absolute", "rotary")
CLIP_TEXT_FEATURES = 77 * 768
REFERENCE_CLASSES = 1000  # what the reference takes when its settings name no class count

# The number that Latte's own files use for the conditioning (their key "extras").
EXTRAS = {1: "none", 2: "class", 78: "clip_text"}

# Keys of the reference's settings files that do not shape the network.
IGNORED_KEYS = frozenset({"attention_bias", "attention_mode", "fixed_spatial", "frame_interval"})

# name -> (depth, hidden_size, num_heads); "Latte-XL/2" adds the patch size (docs/model.md 1)
SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
PATCH_SIZES = (2, 4, 8)
XL_DEPTH_OF_TWO_ATTENTIONS = 23  # variants 3 and 4 of XL, for as many weights as 1 and 2 have
PRESETS = tuple(f"Latte-{size}/{patch}" for size in SIZES for patch in PATCH_SIZES)

INTEGER_RANGES: dict[str, tuple[int, int]] = {
    "input_size": (1, 4096),
    "patch_size": (1, 64),
    "in_channels": (1, 256),
    "hidden_size": (4, 65536),
    "depth": (1, 512),
    "num_heads": (1, 512),
    "num_frames": (1, 65536),
    "num_classes": (0, 1_000_000),
    "text_features": (1, 10_000_000),
    "variant": (1, 4),
    "tubelet_size": (1, 64),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LatteConfig:
    """Shape of a Latte; the defaults are the released unconditional models' (Latte-XL/2).

    Args:
        input_size: latent side the spatial table was made for (32 = 256 pixels).
        patch_size: latent cells along the edge of one token.
        in_channels: latent channels.
        hidden_size: width D of every token.
        depth: blocks in all; variants 1 and 2 have half of each kind, so it is even there.
        num_heads: attention heads; variant 4 uses half of them, each twice as wide.
        mlp_ratio: inner width of the feed-forward layer over D.
        num_frames: frames the temporal table was made for.
        conditioning: "none", "class" or "clip_text" (77 CLIP tokens, flattened).
        num_classes: classes without the null class; 0 unless `conditioning` is "class".
        text_features: width of the flattened text; used by "clip_text" only.
        class_dropout_prob: share of labels replaced by the null class in training mode; at 0 the
            model has no null class.
        learn_sigma: whether variance logits follow the noise in the output.
        variant: 1 interleaved, 2 late fusion, 3 two attentions one after the other in each block,
            4 two attentions side by side in each block (paper, section 3.2).
        tubelet_size: frames of one token; 1 is the released uniform frame patch embedding.
        injection: "adaln" (released), or "tokens": timestep and label as tokens of each frame.
        temporal_positions: "absolute" (released), or "rotary", which has no temporal table.
        has_temporal: False for DiT's image models: every block is spatial, frames are independent.

    Raises:
        InvalidInputError: for a value out of range or a combination that has no meaning.
    """

    input_size: int = 32
    patch_size: int = 2
    in_channels: int = 4
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_frames: int = 16
    conditioning: str = "none"
    num_classes: int = 0
    text_features: int = CLIP_TEXT_FEATURES
    class_dropout_prob: float = 0.1
    learn_sigma: bool = True
    variant: int = 1
    tubelet_size: int = 1
    injection: str = "adaln"
    temporal_positions: str = "absolute"
    has_temporal: bool = True

    def __post_init__(self) -> None:
        for name, (low, high) in INTEGER_RANGES.items():
            check_whole(TITLE, name, getattr(self, name), low, high, advice="")
        choices = {
            "conditioning": CONDITIONINGS,
            "injection": INJECTIONS,
            "temporal_positions": TEMPORAL_POSITIONS,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InvalidInputError(
                    f"The Latte config says {name} = {getattr(self, name)!r}, but it must be one "
                    f"of {', '.join(allowed)}."
                )
        self._check_numbers()
        self._check_shape()

    def _check_numbers(self) -> None:
        if not is_number(self.mlp_ratio) or not 0 < self.mlp_ratio <= 64:
            raise InvalidInputError(
                f"The Latte config says mlp_ratio = {self.mlp_ratio!r}, but it must be above 0, "
                "64 at most."
            )
        if not is_number(self.class_dropout_prob) or not 0 <= self.class_dropout_prob < 1:
            raise InvalidInputError(
                f"The Latte config says class_dropout_prob = {self.class_dropout_prob!r}, but it "
                "must be at least 0 and below 1."
            )
        for name in ("learn_sigma", "has_temporal"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidInputError(
                    f"The Latte config says {name} = {getattr(self, name)!r}, but it must be true "
                    "or false."
                )

    def _check_shape(self) -> None:
        if self.hidden_size % 4 or self.hidden_size % self.attention_heads:
            raise InvalidInputError(
                f"The Latte config gives hidden_size {self.hidden_size} with {self.num_heads} "
                f"heads (variant {self.variant}), but the size must be a multiple of 4 and of the "
                f"{self.attention_heads} heads of each attention."
            )
        of_image_model = (self.variant, self.tubelet_size, self.temporal_positions)
        if not self.has_temporal and of_image_model != (1, 1, "absolute"):
            raise InvalidInputError(
                f"The Latte config says has_temporal = false with variant {self.variant}, "
                f"tubelet_size {self.tubelet_size} and {self.temporal_positions} temporal "
                "positions; an image model has 1, 1 and absolute."
            )
        if self.has_temporal and self.variant in (1, 2) and self.depth % 2:
            raise InvalidInputError(
                f"The Latte config says depth = {self.depth}, but variants 1 and 2 have as many "
                "spatial as temporal blocks, so it must be even."
            )
        if self.variant == 4 and self.num_heads % 2:
            raise InvalidInputError(
                f"The Latte config says num_heads = {self.num_heads}, but variant 4 gives half of "
                "the heads to each attention, so it must be even."
            )
        if self.input_size % self.patch_size or self.num_frames % self.tubelet_size:
            raise InvalidInputError(
                f"The Latte config gives input_size {self.input_size} with patch_size "
                f"{self.patch_size} and num_frames {self.num_frames} with tubelet_size "
                f"{self.tubelet_size}; each first number must be a multiple of the second."
            )
        if (self.conditioning == "class") != (self.num_classes > 0):
            raise InvalidInputError(
                f"The Latte config says conditioning = {self.conditioning!r} with num_classes = "
                f"{self.num_classes}. Class-conditional models, and only they, have classes."
            )
        if self.temporal_positions == "rotary" and self.hidden_size // self.attention_heads % 2:
            raise InvalidInputError(
                "The Latte config asks for rotary temporal positions, but its heads are "
                f"{self.hidden_size // self.attention_heads} wide; rotary pairs need an even width."
            )

    @property
    def attention_heads(self) -> int:
        """Heads of each attention."""
        return max(self.num_heads // 2, 1) if self.variant == 4 else self.num_heads

    @property
    def out_channels(self) -> int:
        """Output channels: noise, then variance logits if learned."""
        return self.in_channels * (2 if self.learn_sigma else 1)

    @property
    def table_side(self) -> int:
        """Tokens along a side of the spatial table."""
        return self.input_size // self.patch_size

    @property
    def null_class(self) -> int:
        """Label that stands for "any class": the one after the last; see `has_null_class`."""
        return self.num_classes

    @property
    def has_null_class(self) -> bool:
        """Whether the label table has a row for any class; needed by guidance."""
        return self.conditioning == "class" and self.class_dropout_prob > 0

    @property
    def num_labels(self) -> int:
        """Rows of the label table."""
        return self.num_classes + int(self.has_null_class)

    @property
    def num_condition_tokens(self) -> int:
        """Tokens put in front of each frame: timestep and label or text, none under "adaln"."""
        if self.injection == "adaln":
            return 0
        return 1 if self.conditioning == "none" else 2

    @property
    def has_temporal_table(self) -> bool:
        """Whether frames are told apart by a table that is added to them."""
        return self.has_temporal and self.temporal_positions == "absolute"

    @property
    def num_units(self) -> int:
        """Steps of the network that a host can run, skip or replace; pairs in variant 1."""
        return self.depth // 2 if self.is_paired else self.depth

    @property
    def is_paired(self) -> bool:
        """Whether spatial and temporal blocks alternate."""
        return self.variant == 1 and self.has_temporal

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LatteConfig:
        """Read our own config, or the settings of the reference under its names.

        Settings that are not given have the defaults of this class, and the reference's 1000
        classes where its `extras` says that there are classes and not how many.

        Raises:
            InvalidInputError: for an unknown key, see `translate`, or for a bad value.
        """
        used = cls.translate(values)
        if values.get("extras") == 2:
            used.setdefault("num_classes", REFERENCE_CLASSES)
        return cls(**used)

    @classmethod
    def translate(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the given settings, and no others, under our own names.

        Of the reference's names `extras` (1, 2, 78), `model` ("Latte-XL/2"), `image_size` (pixels)
        and `latent_size` are understood. Keys that start with `_` and those that do not shape the
        network are ignored.

        Raises:
            InvalidInputError: for any other unknown key, naming it, or for two names of one
                setting that differ.
        """
        used = used_settings(values, IGNORED_KEYS)
        preset: dict[str, Any] = _from_preset(used.pop("model", None), used.get("variant"))
        used = {**preset, **used}
        _set_alias(used, "input_size", used.pop("latent_size", None))
        _set_alias(used, "input_size", _cells(used.pop("image_size", None)))
        _apply_extras(used, used.pop("extras", None))
        refuse_unknown(TITLE, used, cls.__slots__)
        return used

    @classmethod
    def preset(cls, name: str, **changes: Any) -> LatteConfig:
        """Return one of the paper's sizes, such as "Latte-XL/2"; `changes` win over it.

        Size XL has 28 blocks, and 23 in variants 3 and 4.
        """
        return cls.from_dict({"model": name, **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, class name included."""
        return {"_class_name": CLASS_NAME, **asdict(self)}


def _from_preset(name: object, variant: object) -> dict[str, Any]:
    if name is None:
        return {}
    known = str(name).removeprefix("LatteIMG-").removeprefix("Latte-")
    size, _, patch = known.partition("/")
    if size not in SIZES or patch not in map(str, PATCH_SIZES):
        raise InvalidInputError(
            f"There is no Latte of size {name!r}. The sizes are {', '.join(PRESETS)}."
        )
    depth, hidden_size, num_heads = SIZES[size]
    if size == "XL" and variant in (3, 4):
        depth = XL_DEPTH_OF_TWO_ATTENTIONS
    return {
        "depth": depth,
        "hidden_size": hidden_size,
        "num_heads": num_heads,
        "patch_size": int(patch),
    }


def _cells(pixels: object) -> int | None:
    if pixels is None:
        return None
    if not is_whole(pixels, low=8) or pixels % 8:
        raise InvalidInputError(
            f"The Latte config says image_size = {pixels!r}, but it must be a multiple of 8 pixels."
        )
    return pixels // 8


def _set_alias(used: dict[str, Any], name: str, value: object) -> None:
    if value is None:
        return
    if used.setdefault(name, value) != value:
        raise InvalidInputError(
            f"The Latte config gives {name} as {used[name]!r} and, under another name, as "
            f"{value!r}. Keep one of them."
        )


def _apply_extras(used: dict[str, Any], extras: object) -> None:
    """Turn the reference's `extras` into a conditioning; its class count may stand beside 1."""
    if extras is None:
        return
    if not is_whole(extras) or extras not in EXTRAS:
        raise InvalidInputError(
            f"The Latte config says extras = {extras!r}, but it must be 1 (unconditional), 2 "
            "(class) or 78 (CLIP text)."
        )
    _set_alias(used, "conditioning", EXTRAS[extras])
    if extras != 2:
        used.pop("num_classes", None)
