"""The T5 encoder: transformers' module filled from a Latte folder or from one t5xxl file."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..devices import half_type
from ..errors import (
    InvalidInputError,
    MissingDependencyError,
    NonFiniteError,
    WeightMismatchError,
)
from ..files import read_json
from ..meta_modules import TensorReader, WithoutNumbers, fill_module
from ..types import TEXT_TOKENS
from .config import T5EncoderConfig, check_is_t5
from .four_bits import FourBitLinear, FourBits
from .layouts import WEIGHT, dequantise, encoder_tensors, take_four_bits, usual_dtype
from .one_pass import row_by_row
from .tokenizer import PromptTokenizer, TokenBatch

KEPT_IN_FLOAT32 = (".wo.weight",)  # in float16 the second feed-forward matrix overflows
EMBEDDING = "shared.weight"
EMBEDDING_ALIAS = "encoder.embed_tokens.weight"
TEXTS_AT_ONCE = 8
ROWS_AT_ONCE = 32  # of `encode_each`; each holds 4 MB of attention biases in T5-XXL

logger = logging.getLogger("latte")


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEmbeddings:
    """What the encoder gives for several prompts.

    Args:
        embeds: (B, 120, C) features of every position, padding included.
        mask: (B, 120) bool, True for real tokens, the end token included.
        notices: one sentence for each prompt that was cut.
    """

    embeds: Tensor
    mask: Tensor
    notices: tuple[str, ...] = ()


class TextEncoder:
    """A T5 v1.1 encoder with its tokenizer.

    Args:
        module: transformers' T5EncoderModel with weights.
        tokenizer: the one the encoder was trained with.

    Raises:
        IncompatibleInputsError: if the tokenizer has more pieces than the encoder knows.
    """

    def __init__(self, module: Any, tokenizer: PromptTokenizer) -> None:
        tokenizer.check_vocabulary(module.config.vocab_size)
        self.module = module
        self.tokenizer = tokenizer

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        tokenizer: PromptTokenizer,
        *,
        config: T5EncoderConfig | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> TextEncoder:
        """Build the encoder from weights in any layout of `layouts.py`.

        Args:
            tensors: a T5 file's tensors; fp16, fp32, bf16, fp8, scaled fp8, int8, and `four_bits`,
                which stay as they are.
            tokenizer: the tokenizer that belongs to them.
            config: shape; read from the weights when left out.
            dtype: to run in. Left out: see `default_dtype`.
            device: to run on.

        Raises:
            UnknownArchitectureError: for umT5, CLIP and others, by name.
            WeightMismatchError: if the weights do not fit the config.
            MissingDependencyError: if transformers is not installed.
        """
        stored = encoder_tensors(tensors)
        check_is_t5(stored)
        small, stored = take_four_bits(stored)
        dtype = dtype or default_dtype(stored, device)
        weights = dequantise(stored, dtype)
        config = config or T5EncoderConfig.from_tensors({**weights, **_in_name_only(small)})
        return cls(_build(config, weights, small, dtype, device), tokenizer)

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        *,
        read: TensorReader,
        tokenizer: PromptTokenizer | str | Path | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> TextEncoder:
        """Load `text_encoder/` of a Latte folder, in one file or in shards.

        Args:
            folder: holds `config.json` and the weights.
            read: opens a folder's weights safely.
            tokenizer: a tokenizer or its folder; left out, the folder `tokenizer` beside `folder`.
            dtype: as in `from_tensors`.
            device: as in `from_tensors`.

        Raises:
            CorruptCheckpointError: if a file is missing or unreadable.
            InvalidInputError: if there is no tokenizer.
            UnknownArchitectureError: as in `from_tensors`.
        """
        path = Path(folder)
        config = T5EncoderConfig.from_dict(read_json(path / "config.json"))
        found = _tokenizer(path.parent / "tokenizer" if tokenizer is None else tokenizer)
        return cls.from_tensors(read(path), found, config=config, dtype=dtype, device=device)

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        read: TensorReader,
        tokenizer: PromptTokenizer | str | Path | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> TextEncoder:
        """Load a single-file encoder such as `t5xxl_fp16.safetensors`.

        Args:
            path: the file.
            read: opens it safely.
            tokenizer: a tokenizer, or the folder (or file) of `spiece.model` or `tokenizer.json`;
                such files do not carry one.
            dtype: as in `from_tensors`.
            device: as in `from_tensors`.

        Raises:
            InvalidInputError: if no tokenizer is given.
            UnknownArchitectureError: as in `from_tensors`.
        """
        if tokenizer is None:
            raise InvalidInputError(
                f"{Path(path).name} holds no tokenizer and none was given. Choose a folder with "
                "the spiece.model or tokenizer.json of T5 v1.1, such as tokenizer in Latte-1."
            )
        found = _tokenizer(tokenizer)
        return cls.from_tensors(read(Path(path)), found, dtype=dtype, device=device)

    @property
    def width(self) -> int:
        """Features per token, C."""
        return int(self.module.config.d_model)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._embedding().device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the features."""
        return self._embedding().dtype

    def to(self, device: torch.device | str) -> TextEncoder:
        """Move the weights and return self."""
        self.module.to(device)
        return self

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> TextEmbeddings:
        """Encode prepared prompts.

        Prompts above 120 tokens are cut; each gets one line in the log and in `notices`.

        Args:
            texts: what `prepare_prompt` returned, one or more.

        Returns:
            (B, 120, C) features on the encoder's device, and (B, 120) mask.

        Raises:
            NonFiniteError: if the features of a real token are NaN or infinite.
        """
        tokens = self.tokenizer.encode(texts, TEXT_TOKENS)
        _tell(tokens)
        parts = [slice(at, at + TEXTS_AT_ONCE) for at in range(0, len(texts), TEXTS_AT_ONCE)]
        return TextEmbeddings(
            embeds=torch.cat([self._features(tokens.ids[one], tokens.mask[one]) for one in parts]),
            mask=tokens.mask.to(self.device),
            notices=tokens.notices,
        )

    @torch.no_grad()
    def encode_each(self, texts: Sequence[str]) -> list[TextEmbeddings]:
        """Encode prepared prompts in one pass over the layers, to the bits that each has alone.

        Args:
            texts: as for `encode`.

        Returns:
            What `encode` returns for each prompt by itself.

        Raises:
            NonFiniteError: as `encode`.
        """
        tokens = [self.tokenizer.encode([text], TEXT_TOKENS) for text in texts]
        for one in tokens:
            _tell(one)
        made: list[Tensor] = []
        with row_by_row(self.module):
            for start in range(0, len(tokens), ROWS_AT_ONCE):
                some = tokens[start : start + ROWS_AT_ONCE]
                ids = torch.cat([one.ids for one in some])
                mask = torch.cat([one.mask for one in some])
                made += [row[None] for row in self._features(ids, mask)]
        return [
            TextEmbeddings(embeds=embeds, mask=one.mask.to(self.device), notices=one.notices)
            for embeds, one in zip(made, tokens, strict=True)
        ]

    def _features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Run the layers once: (B, 120) ids and mask -> (B, 120, C).

        Raises:
            NonFiniteError: if a feature is NaN or infinite.
        """
        given = {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device).long()}
        hidden: Tensor = self.module(**given).last_hidden_state
        if not torch.isfinite(hidden).all():
            raise NonFiniteError(
                f"The text encoder gave NaN or infinite features in {self.dtype}. "
                "Use bfloat16 or float32 for the text encoder."
            )
        return hidden

    def _embedding(self) -> Tensor:
        weight: Tensor = self.module.shared.weight
        return weight


def _tell(tokens: TokenBatch) -> None:
    """Say which prompts were cut."""
    for notice in tokens.notices:
        logger.warning(notice)


def kept_in_float32(dtype: torch.dtype) -> tuple[str, ...]:
    """Return how the names of weights end that are float32 in an encoder of a dtype."""
    return KEPT_IN_FLOAT32 if dtype == torch.float16 else ()


def default_dtype(tensors: Mapping[str, Tensor], device: torch.device | str) -> torch.dtype:
    """Return float32 for the CPU, which is slow in half precision, else what `usual_dtype` says.

    In place of bfloat16 it is float16 where the device has no bfloat16.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return torch.float32
    usual = usual_dtype(tensors)
    return half_type(device) if usual == torch.bfloat16 else usual


def _tokenizer(source: PromptTokenizer | str | Path) -> PromptTokenizer:
    return source if isinstance(source, PromptTokenizer) else PromptTokenizer.from_folder(source)


def _in_name_only(small: Mapping[str, FourBits]) -> dict[str, Tensor]:
    """Return weights without numbers, which have the names and shapes of packed ones."""
    return {name + WEIGHT: torch.empty(one.shape, device="meta") for name, one in small.items()}


def _put_four_bits(
    module: Any, name: str, stored: FourBits, dtype: torch.dtype, device: torch.device | str
) -> None:
    """Put a packed layer in the place of an empty one.

    Raises:
        WeightMismatchError: if the encoder has no such layer.
    """
    empty = dict(module.named_modules()).get(name)
    if not isinstance(empty, nn.Linear) or tuple(empty.weight.shape) != stored.shape:
        raise WeightMismatchError(
            f"These weights do not fit the text encoder: {name} is a packed layer of size "
            f"{stored.shape}, but the config.json has none of that name and size. Use the weights "
            "and the config.json that belong together."
        )
    values, scales = (one.to(device) for one in stored)
    module.set_submodule(name, FourBitLinear(values, scales, bias=None, dtype=dtype))


def _build(
    config: T5EncoderConfig,
    weights: dict[str, Tensor],
    small: dict[str, FourBits],
    dtype: torch.dtype,
    device: torch.device | str,
) -> Any:
    try:
        from transformers import T5Config, T5EncoderModel
    except ImportError as error:
        raise MissingDependencyError(
            "The text encoder could not be built: transformers is not installed or does not "
            'import. Run "pip install transformers".'
        ) from error
    with torch.device("meta"), WithoutNumbers():
        module: Any = T5EncoderModel(T5Config(**config.to_dict()))
    weights = {**weights, EMBEDDING_ALIAS: weights.get(EMBEDDING_ALIAS, weights[EMBEDDING])}
    float32_names = kept_in_float32(dtype)
    for name, stored in small.items():
        runs_in = torch.float32 if f"{name}{WEIGHT}".endswith(float32_names) else dtype
        _put_four_bits(module, name, stored, runs_in, device)
    fill_module(
        module,
        weights,
        part="text encoder",
        dtype=dtype,
        device=device,
        float32_names=float32_names,
    )
    module.set_input_embeddings(module.shared)  # one table, not two copies of it
    return module
