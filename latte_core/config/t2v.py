"""Configuration of the text-to-video transformer, read from and written to Latte's own JSON.

Source: the published `transformer/config.json` of Latte-1 (docs/model.md 5.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..checks import is_number
from ..errors import InvalidInputError
from ..types import LATENT_CHANNELS
from .checks import check_whole, refuse_unknown, used_settings

TITLE = "The transformer config"
LEGACY_KEYS = frozenset(
    {
        "attention_type",
        "double_self_attention",
        "norm_num_groups",
        "num_vector_embeds",
        "only_cross_attention",
        "upcast_attention",
        "use_linear_projection",
        "video_length",
    }
)

# name -> (lowest, highest); wide enough for any transformer that fits a machine.
INTEGER_RANGES: dict[str, tuple[int, int]] = {
    "num_layers": (1, 512),
    "num_attention_heads": (1, 512),
    "attention_head_dim": (1, 1024),
    "cross_attention_dim": (1, 65536),
    "caption_channels": (1, 65536),
    "in_channels": (1, 256),
    "out_channels": (1, 512),
    "patch_size": (1, 64),
    "sample_size": (1, 4096),
    "num_embeds_ada_norm": (1, 100000),
}

FIXED_VALUES: dict[str, object] = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LatteT2VConfig:
    """Shape of a LatteT2V; the defaults are Latte-1's.

    Args:
        num_layers: pairs of one spatial and one temporal block.
        num_attention_heads, attention_head_dim: their product is the hidden size D.
        cross_attention_dim: width of the projected text, equal to D.
        caption_channels: width of the text encoder's output (4096 for T5-XXL).
        in_channels, out_channels: latent channels in; noise and variance channels out.
        patch_size: latent cells along the edge of one token.
        sample_size: latent side the spatial table was made for (64 = 512 pixels).
        norm_eps: epsilon of every LayerNorm.

    Raises:
        InvalidInputError: for a value out of range or a combination that has no meaning.
    """

    num_layers: int = 28
    num_attention_heads: int = 16
    attention_head_dim: int = 72
    cross_attention_dim: int = 1152
    caption_channels: int = 4096
    in_channels: int = LATENT_CHANNELS
    out_channels: int = 8
    patch_size: int = 2
    sample_size: int = 64
    norm_eps: float = 1e-6
    activation_fn: str = "gelu-approximate"
    attention_bias: bool = True
    dropout: float = 0.0
    norm_type: str = "ada_norm_single"
    norm_elementwise_affine: bool = False
    num_embeds_ada_norm: int = 1000

    def __post_init__(self) -> None:
        for name, (low, high) in INTEGER_RANGES.items():
            check_whole(TITLE, name, getattr(self, name), low, high)
        for name, expected in FIXED_VALUES.items():
            if getattr(self, name) != expected:
                raise InvalidInputError(
                    f"The transformer config says {name} = {getattr(self, name)!r}, but Latte is "
                    f"built with {expected!r} only. This config belongs to another model."
                )
        self._check_numbers()

    def _check_numbers(self) -> None:
        if not is_number(self.norm_eps) or not 0 < self.norm_eps < 1:
            raise InvalidInputError(
                f"The transformer config says norm_eps = {self.norm_eps!r}, but it must be between "
                "0 and 1."
            )
        if isinstance(self.dropout, bool) or self.dropout != 0:
            raise InvalidInputError(
                f"The transformer config says dropout = {self.dropout!r}, but Latte uses 0."
            )
        if self.hidden_size > 65536 or self.hidden_size % 4:
            raise InvalidInputError(
                f"The transformer config gives a hidden size of {self.num_attention_heads} x "
                f"{self.attention_head_dim} = {self.hidden_size}, but it must be a multiple of 4, "
                "65536 at most."
            )
        if self.cross_attention_dim != self.hidden_size:
            raise InvalidInputError(
                f"The transformer config says cross_attention_dim = {self.cross_attention_dim}, "
                f"but it must equal the hidden size, {self.hidden_size}."
            )
        if self.out_channels not in (self.in_channels, 2 * self.in_channels):
            raise InvalidInputError(
                f"The transformer config says out_channels = {self.out_channels}, but it must be "
                f"{self.in_channels} (noise) or {2 * self.in_channels} (noise and variance)."
            )

    @property
    def hidden_size(self) -> int:
        """Width D of every token."""
        return self.num_attention_heads * self.attention_head_dim

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LatteT2VConfig:
        """Read a config.json.

        Keys that start with `_`, `video_length` and the keys of old Transformer2DModel files carry
        nothing that Latte uses and are ignored. Of the values that diffusers saves as null where
        they were left out, Latte has no use for `num_embeds_ada_norm`; `out_channels` are then as
        many as `in_channels`.

        Raises:
            InvalidInputError: for any other unknown key, naming it, or for a bad value.
        """
        used = used_settings(values, LEGACY_KEYS)
        refuse_unknown(TITLE, used, cls.__slots__)
        if used.get("num_embeds_ada_norm", 0) is None:
            del used["num_embeds_ada_norm"]
        if used.get("out_channels", 0) is None:
            used["out_channels"] = used.get("in_channels", LATENT_CHANNELS)
        return cls(**used)

    def to_dict(self) -> dict[str, Any]:
        """Return the published JSON form, class name included."""
        return {"_class_name": "LatteTransformer3DModel", **asdict(self)}
