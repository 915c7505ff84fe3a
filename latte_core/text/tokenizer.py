"""Turn prepared prompts into T5 token ids: 120 with the end token, padded with 0, and a mask."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import (
    CorruptCheckpointError,
    IncompatibleInputsError,
    InvalidInputError,
    MissingDependencyError,
)
from ..types import TEXT_TOKENS
from .prompt import check_text

PAD_ID = 0
END_ID = 1
UNKNOWN_ID = 2
TOKENIZER_FILES = ("tokenizer.json", "spiece.model")
# Derives from BaseException alone, and cannot be imported from anywhere.
RUST_PANIC = "PanicException"
CONVERSION_PACKAGES = ("sentencepiece", "google.protobuf")  # for spiece.model alone
TOKENIZED_AT_MOST = 131_072  # characters; no prompt needs more than the first few thousand
NAMED_WORDS = 8
NAMED_CHARACTERS = 80
SENTINEL = re.compile(r"<extra_id_\d+>")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenBatch:
    """Token ids of several prompts.

    Args:
        ids: (B, L) int64, padded with 0.
        mask: (B, L) bool, True for real tokens, the end token included.
        notices: one sentence for each prompt that was too long, in order.
    """

    ids: Tensor
    mask: Tensor
    notices: tuple[str, ...] = ()


class PromptTokenizer:
    """A T5 SentencePiece tokenizer, read from a folder.

    Args:
        backend: transformers' tokenizer object.
        name: what to call it in messages.
    """

    def __init__(self, backend: Any, name: str = "the tokenizer") -> None:
        self._backend = backend
        self.name = name
        vocabulary: dict[str, int] = backend.get_vocab()
        self.num_pieces = 1 + max(
            index for piece, index in vocabulary.items() if not SENTINEL.fullmatch(piece)
        )

    @classmethod
    def from_folder(cls, folder: str | Path) -> PromptTokenizer:
        """Load the tokenizer of a folder that holds `tokenizer.json`, `spiece.model` or both.

        One of these two files may be named instead of the folder. Nothing is downloaded.

        Raises:
            InvalidInputError: if there is no such file, saying which one is needed.
            CorruptCheckpointError: if the file is not a T5 tokenizer.
            MissingDependencyError: if transformers, sentencepiece or protobuf is not installed.
        """
        path = Path(folder)
        if path.is_file() and path.name in TOKENIZER_FILES:
            path = path.parent
        present = [name for name in TOKENIZER_FILES if (path / name).is_file()]
        if not present:
            raise InvalidInputError(
                f"No tokenizer was found at {path.name}: expected a folder with tokenizer.json or "
                "spiece.model in it. Choose the folder tokenizer of Latte-1, or put the "
                "spiece.model of T5 v1.1 into a folder and choose that."
            )
        backend = _load_backend(path, needs_conversion="tokenizer.json" not in present)
        _check_special_ids(backend, path.name)
        return cls(backend, path.name)

    def check_vocabulary(self, vocab_size: int) -> None:
        """Check that an encoder with `vocab_size` rows knows every piece of this tokenizer.

        Raises:
            IncompatibleInputsError: if it does not.
        """
        if self.num_pieces > vocab_size:
            raise IncompatibleInputsError(
                f"The tokenizer {self.name} has {self.num_pieces} pieces but the text encoder "
                f"knows {vocab_size}. They belong to different models; use the tokenizer that "
                "came with the encoder."
            )

    def encode(self, texts: Sequence[str], length: int = TEXT_TOKENS) -> TokenBatch:
        """Tokenise prepared texts.

        Args:
            texts: one or more prompts, cleaned or lower-cased already.
            length: ids per prompt, the end token included; longer prompts are cut, with a notice.

        Returns:
            (B, length) ids and mask.

        Raises:
            InvalidInputError: if there is no text, or one is not a string.
        """
        if isinstance(texts, str) or not texts:
            raise InvalidInputError(
                f"The tokenizer got {texts!r}, but it needs a list with one text at least."
            )
        ids = torch.full((len(texts), length), PAD_ID, dtype=torch.int64)
        mask = torch.zeros((len(texts), length), dtype=torch.bool)
        notices: list[str] = []
        for row, text in enumerate(texts):
            tokens = self._ids(text)
            if len(tokens) > length:
                is_part = len(_shortened(text)) == TOKENIZED_AT_MOST
                notices.append(self._notice(tokens, length, is_part))
                tokens = [*tokens[: length - 1], END_ID]
            ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
            mask[row, : len(tokens)] = True
        return TokenBatch(ids=ids, mask=mask, notices=tuple(notices))

    def _ids(self, text: str) -> list[int]:
        """Return all ids of one text, the end token included."""
        text = _shortened(check_text(text)).encode("utf-8", "replace").decode("utf-8")
        tokens: list[int] = self._backend(text, add_special_tokens=True, verbose=False)["input_ids"]
        # Sentinels such as <extra_id_0> may lie above a small encoder's vocabulary.
        tokens = [token if token < self.num_pieces else UNKNOWN_ID for token in tokens]
        return tokens if tokens and tokens[-1] == END_ID else [*tokens, END_ID]

    def _notice(self, tokens: list[int], length: int, is_part: bool) -> str:
        dropped: str = self._backend.decode(tokens[length - 1 : -1], skip_special_tokens=True)
        words = " ".join(dropped[:NAMED_CHARACTERS].split()[:NAMED_WORDS])
        count = f"more than {len(tokens)}" if is_part else f"{len(tokens)}"
        return (
            f"The prompt has {count} tokens but only the first {length} are used (the end token "
            f'included). Dropped from "{words}" on.'
        )


def _shortened(text: str) -> str:
    """Return the front of a very long text, blanks joined so that they do not use it up."""
    if len(text) <= TOKENIZED_AT_MOST:
        return text
    return " ".join(text.split())[:TOKENIZED_AT_MOST]


def _load_backend(folder: Path, *, needs_conversion: bool) -> Any:
    try:
        transformers: Any = import_module("transformers")
        for name in CONVERSION_PACKAGES if needs_conversion else ():
            import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"The tokenizer {folder.name} could not be opened: {error.name} is not installed. Run "
            '"pip install transformers sentencepiece protobuf".'
        ) from error
    try:
        backend: Any = transformers.T5TokenizerFast.from_pretrained(
            str(folder), local_files_only=True, legacy=True
        )
        backend("a", add_special_tokens=True)  # settings of a wrong type show only when it works
        return backend
    except BaseException as error:  # its Rust half raises the bare Exception class, or a panic
        if not isinstance(error, Exception) and type(error).__name__ != RUST_PANIC:
            raise
        raise CorruptCheckpointError(
            f"The tokenizer in the folder {folder.name} could not be read: it is damaged or is "
            "not a T5 tokenizer. Download tokenizer.json or spiece.model again."
        ) from error


def _check_special_ids(backend: Any, name: str) -> None:
    found = (backend.pad_token_id, backend.eos_token_id, backend.unk_token_id)
    if found != (PAD_ID, END_ID, UNKNOWN_ID):
        raise CorruptCheckpointError(
            f"The tokenizer {name} numbers padding, end and unknown as {found}, but T5 has "
            f"{(PAD_ID, END_ID, UNKNOWN_ID)}. Choose the tokenizer of T5 v1.1 (a Latte-1 folder)."
        )
