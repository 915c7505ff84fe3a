"""The shape of an image VAE or a temporal-decoder VAE, from a config.json or from the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

from torch import Tensor

from ..config.checks import check_whole, refuse_unknown, used_settings
from ..errors import InvalidInputError, UnknownArchitectureError
from ..types import LATENT_CHANNELS, SCALING_FACTOR

TITLE = "The VAE's config"
IMAGE_CLASS = "AutoencoderKL"
TEMPORAL_CLASS = "AutoencoderKLTemporalDecoder"
MAX_LEVELS = 8
MAX_CHANNELS = 8192
MAX_LAYERS = 16
TEMPORAL_GROUPS = 32
# Keys that say nothing about the weights' shapes or that Latte does not use.
IGNORED_KEYS = ("sample_size", "force_upcast")
# Keys with one value that Latte's VAEs have.
FIXED_VALUES: Mapping[str, object] = MappingProxyType(
    {
        "act_fn": "silu",
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": LATENT_CHANNELS,
        "latents_mean": None,
        "latents_std": None,
        "shift_factor": None,
        "mid_block_add_attention": True,
    }
)
BLOCK_TYPES: Mapping[str, str] = MappingProxyType(
    {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
)
TEMPORAL_MARK = "decoder.time_conv_out.weight"
ADVICE = (
    "Use the folder vae or vae_temporal_decoder of Latte-1, or the VAE of Stable Diffusion 1.x, "
    "such as vae-ft-mse-840000-ema-pruned.safetensors."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class VaeConfig:
    """Shape of a VAE; the field names are those of the published config.json.

    Args:
        is_temporal: the decoder looks along time (AutoencoderKLTemporalDecoder).
        block_out_channels: width of each level, finest first; each level but the last halves the
            picture.
        layers_per_block: residual blocks of an encoder level; a decoder level has one more.
        norm_num_groups: of every group norm; the temporal VAE always has 32.
        scaling_factor: latents = VAE output * scaling_factor.
        use_quant_conv, use_post_quant_conv: 1 x 1 convolutions of the image VAE; say nothing about
            the temporal one.

    Raises:
        InvalidInputError: for a value out of range.
    """

    is_temporal: bool
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    norm_num_groups: int = 32
    scaling_factor: float = SCALING_FACTOR
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True

    def __post_init__(self) -> None:
        widths = self.block_out_channels
        check_whole(TITLE, "norm_num_groups", self.norm_num_groups, 1, MAX_CHANNELS)
        check_whole(TITLE, "layers_per_block", self.layers_per_block, 1, MAX_LAYERS)
        check_whole(TITLE, "the number of block_out_channels", len(widths), 1, MAX_LEVELS)
        for width in widths:
            check_whole(TITLE, "block_out_channels", width, 1, MAX_CHANNELS)
            if width % self.norm_num_groups:
                raise InvalidInputError(
                    f"The VAE's config has {width} channels in {self.norm_num_groups} groups, but "
                    "channels must be a multiple of groups. Use the config.json of the weights."
                )
        if self.is_temporal and self.norm_num_groups != TEMPORAL_GROUPS:
            raise InvalidInputError(
                f"The VAE's config says norm_num_groups = {self.norm_num_groups}, but the "
                f"temporal VAE always has {TEMPORAL_GROUPS}. Use the config.json of the weights."
            )
        for name in ("use_quant_conv", "use_post_quant_conv"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidInputError(
                    f"The VAE's config says {name} = {getattr(self, name)!r}, but it must be true "
                    "or false. Use the config.json that came with the weights."
                )
        scale = self.scaling_factor
        if type(scale) not in (int, float) or not 0 < scale < 1000:
            raise InvalidInputError(
                f"The VAE's config says scaling_factor = {scale!r}, but it must be a number above "
                f"0; Latte has {SCALING_FACTOR}. Use the config.json that came with the weights."
            )

    @property
    def compression(self) -> int:
        """Pixels along the edge of one latent cell."""
        return 2 ** (len(self.block_out_channels) - 1)

    def to_dict(self) -> dict[str, Any]:
        """Return keyword arguments for diffusers' class."""
        levels = len(self.block_out_channels)
        shared: dict[str, Any] = {
            "block_out_channels": self.block_out_channels,
            "layers_per_block": self.layers_per_block,
            "latent_channels": LATENT_CHANNELS,
            "scaling_factor": self.scaling_factor,
            "down_block_types": ("DownEncoderBlock2D",) * levels,
        }
        if self.is_temporal:
            return shared
        return {
            **shared,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
            "norm_num_groups": self.norm_num_groups,
            "use_quant_conv": self.use_quant_conv,
            "use_post_quant_conv": self.use_post_quant_conv,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, is_temporal: bool | None = None) -> VaeConfig:
        """Read a config.json.

        Args:
            values: the published form; keys that start with `_` are ignored but for the class.
            is_temporal: what to believe when the class name is missing.

        Raises:
            UnknownArchitectureError: for another class, or a part Latte's VAEs do not have.
            InvalidInputError: for an unknown key, naming it, or a value out of range.
        """
        name = values.get("_class_name", TEMPORAL_CLASS if is_temporal else IMAGE_CLASS)
        if name not in (IMAGE_CLASS, TEMPORAL_CLASS):
            raise UnknownArchitectureError(
                f'This config.json describes a "{name}", but {IMAGE_CLASS} or {TEMPORAL_CLASS} '
                f"is needed. {ADVICE}"
            )
        used = used_settings(values, IGNORED_KEYS)
        _check_fixed(used)
        widths = used.pop("block_out_channels", None)
        refuse_unknown(TITLE, used, cls.__slots__)
        if not isinstance(widths, (list, tuple)):
            raise InvalidInputError(
                f"{TITLE} has no block_out_channels. It belongs to another model, or has a "
                "spelling mistake."
            )
        given: dict[str, Any] = {"layers_per_block": 1, **used}
        channels = tuple(cast("list[int]", widths))
        return cls(is_temporal=name == TEMPORAL_CLASS, block_out_channels=channels, **given)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> VaeConfig:
        """Read the shape from weights that carry diffusers' names; see `from_shapes`."""
        return cls.from_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()})

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> VaeConfig:
        """Read the shape of a VAE from the shapes of weights with diffusers' present names.

        Raises:
            UnknownArchitectureError: if they are not such a VAE.
        """
        is_temporal = TEMPORAL_MARK in shapes
        block = "spatial_res_block.conv1" if is_temporal else "conv1"
        widths: list[int] = []
        while True:
            shape = shapes.get(f"decoder.up_blocks.{len(widths)}.resnets.0.{block}.weight", ())
            if len(shape) != 4 or len(widths) > MAX_LEVELS:
                break
            widths.append(shape[0])
        if not widths:
            raise UnknownArchitectureError(
                f"These weights are not a VAE that Latte knows. {ADVICE}"
            )
        if any(width % TEMPORAL_GROUPS for width in widths):
            raise InvalidInputError(
                f"The VAE has {min(w for w in widths if w % TEMPORAL_GROUPS)} channels on a level, "
                f"which {TEMPORAL_GROUPS} groups, the usual number, do not divide. Put the "
                "config.json of the weights beside them."
            )
        prefix, ending = "decoder.up_blocks.0.resnets.", f".{block}.weight"
        layers = sum(name.startswith(prefix) and name.endswith(ending) for name in shapes)
        return cls(
            is_temporal=is_temporal,
            block_out_channels=tuple(reversed(widths)),
            layers_per_block=layers - 1,
            use_quant_conv=is_temporal or "quant_conv.weight" in shapes,
            use_post_quant_conv=is_temporal or "post_quant_conv.weight" in shapes,
        )


def _check_fixed(used: dict[str, Any]) -> None:
    """Take the keys with only one good value out of `used`, refusing others."""
    for key, expected in FIXED_VALUES.items():
        value = used.pop(key, expected)
        if value != expected:
            raise UnknownArchitectureError(
                f"The VAE's config says {key} = {value!r}, but Latte's VAEs have {expected!r}. "
                f"It is the VAE of another model. {ADVICE}"
            )
    for key, block in BLOCK_TYPES.items():
        kinds: object = used.pop(key, [block])
        listed = cast("list[object]", kinds) if isinstance(kinds, (list, tuple)) else [kinds]
        if any(kind != block for kind in listed):
            raise UnknownArchitectureError(
                f"The VAE's config says {key} = {kinds!r}, but Latte's VAEs have {block} only. "
                f"It is the VAE of another model. {ADVICE}"
            )
