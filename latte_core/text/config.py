"""The shape of a T5 v1.1 encoder, from a config.json or from the weights themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from ..config.checks import check_whole
from ..errors import InvalidInputError, UnknownArchitectureError, WeightMismatchError

GATED_GELU = "gated-gelu"
INTEGER_RANGES: Mapping[str, tuple[int, int]] = {
    "vocab_size": (4, 1_000_000),
    "d_model": (1, 16_384),
    "d_kv": (1, 1024),
    "d_ff": (1, 65_536),
    "num_layers": (1, 200),
    "num_heads": (1, 256),
    "relative_attention_num_buckets": (2, 1024),
    "relative_attention_max_distance": (2, 65_536),
}
ADVICE = (
    "Latte needs the encoder of T5 v1.1 XXL: the folder text_encoder of Latte-1, or a single file "
    "such as t5xxl_fp16.safetensors or t5xxl_fp8_e4m3fn_scaled.safetensors."
)


class Shaped(Protocol):
    """Anything with a shape: a tensor or an entry of a header."""

    @property
    def shape(self) -> Sequence[int]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class T5EncoderConfig:
    """Shape of a T5 v1.1 encoder; the field names are those of the published config.json.

    Raises:
        InvalidInputError: for a value out of range.
    """

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        for name, (low, high) in INTEGER_RANGES.items():
            check_whole("The text encoder's config", name, getattr(self, name), low, high)
        epsilon = self.layer_norm_epsilon
        if type(epsilon) not in (int, float) or not 0 < epsilon < 1:
            raise InvalidInputError(
                f"The text encoder's config says layer_norm_epsilon = {epsilon!r}, but it must "
                "be between 0 and 1. Use the config.json that came with the weights."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return keyword arguments for transformers' T5Config."""
        fixed = {
            "feed_forward_proj": GATED_GELU,
            "dropout_rate": 0.0,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "is_encoder_decoder": False,
            "use_cache": False,
        }
        return {**asdict(self), **fixed}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> T5EncoderConfig:
        """Read a `config.json`. Keys that shape no encoder weight are ignored: each version of
        transformers writes others.

        Raises:
            UnknownArchitectureError: if it describes another text encoder.
            InvalidInputError: if a needed key is missing or a value is out of range.
        """
        kind = values.get("model_type", "t5")
        if kind != "t5":
            raise UnknownArchitectureError(
                f'This config.json describes a text encoder of type "{kind}", not T5. {ADVICE}'
            )
        activation = values.get("feed_forward_proj")
        if activation != GATED_GELU:
            raise UnknownArchitectureError(
                f'This config.json has feed_forward_proj = "{activation}", but T5 v1.1 has '
                f'"{GATED_GELU}". {ADVICE}'
            )
        names = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
        missing = [name for name in names if name not in values]
        if missing:
            raise InvalidInputError(
                f"The text encoder's config.json lacks {', '.join(missing)}. "
                "Use the config.json that came with the weights."
            )
        return cls(**{name: values[name] for name in cls.__slots__ if name in values})

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Shaped]) -> T5EncoderConfig:
        """Read the shape from weights, or a header, with T5's own names.

        Raises:
            UnknownArchitectureError: if they are not a T5 v1.1 encoder, saying what they are.
        """
        check_is_t5(tensors)
        block = "encoder.block.0.layer"
        bias = tensors[f"{block}.0.SelfAttention.relative_attention_bias.weight"]
        vocab_size, width = tensors["shared.weight"].shape
        inner = tensors[f"{block}.0.SelfAttention.q.weight"].shape[0]
        layers = {name.split(".")[2] for name in tensors if name.startswith("encoder.block.")}
        return cls(
            vocab_size=vocab_size,
            d_model=width,
            d_kv=inner // max(1, bias.shape[1]),
            d_ff=tensors[f"{block}.1.DenseReluDense.wi_0.weight"].shape[0],
            num_layers=len(layers),
            num_heads=bias.shape[1],
            relative_attention_num_buckets=bias.shape[0],
        )


UMT5_ROWS = 256_384
CLIP_MARKS = ("text_model.", "text_projection", "transformer.resblocks.", "logit_scale")
NEEDED_NAMES: Mapping[str, int] = {
    "shared.weight": 2,
    "encoder.block.0.layer.0.SelfAttention.q.weight": 2,
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": 2,
    "encoder.block.0.layer.1.DenseReluDense.wi_0.weight": 2,
}


def check_is_t5(tensors: Mapping[str, Shaped]) -> None:
    """Refuse every text encoder but T5 v1.1, by its name.

    Raises:
        UnknownArchitectureError: saying what the weights are and what to use.
    """
    embedding = tensors.get("shared.weight")
    bias_in_second = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"
    if bias_in_second in tensors or (
        embedding is not None and tuple(embedding.shape[:1]) == (UMT5_ROWS,)
    ):
        found = "umT5 (the encoder of Wan: 256384 words, a position table in every layer)"
    elif any(mark in name for name in tensors for mark in CLIP_MARKS):
        found = "CLIP"
    elif "encoder.block.0.layer.1.DenseReluDense.wi.weight" in tensors:
        found = "T5 1.0, whose feed-forward part is not gated"
    elif any(
        name not in tensors or len(tensors[name].shape) != dimensions
        for name, dimensions in NEEDED_NAMES.items()
    ):
        found = "not a T5 encoder"
    else:
        return
    raise UnknownArchitectureError(f"These text encoder weights are {found}. {ADVICE}")


def check_complete(tensors: Mapping[str, Shaped], config: T5EncoderConfig, name: str) -> None:
    """Refuse an encoder of which a weight is missing.

    Args:
        tensors: under T5's own names, a scale or mark beside them does not matter.
        config: read from them.
        name: of the file, for the message.

    Raises:
        WeightMismatchError: with counts and the first one that is missing.
    """
    layers = ("SelfAttention.q", "SelfAttention.k", "SelfAttention.v", "SelfAttention.o")
    forward = ("DenseReluDense.wi_0", "DenseReluDense.wi_1", "DenseReluDense.wo", "layer_norm")
    expected = ["shared.weight", "encoder.final_layer_norm.weight"]
    for index in range(config.num_layers):
        block = f"encoder.block.{index}.layer"
        expected += [f"{block}.0.{layer}.weight" for layer in (*layers, "layer_norm")]
        expected += [f"{block}.1.{layer}.weight" for layer in forward]
    missing = [key for key in expected if key not in tensors]
    if missing:
        raise WeightMismatchError(
            f"{name} lacks {len(missing)} of {len(expected)} text encoder weights, the first is "
            f"{missing[0]}. It is not whole; download it again."
        )
