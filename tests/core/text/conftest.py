"""One tiny T5 in a Latte folder, shared by all text tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from latte_test_support.tiny import text as tiny_text

from latte_core.text.t5 import TextEncoder
from latte_core.text.tokenizer import PromptTokenizer


@pytest.fixture(scope="session")
def latte_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tokenizer/` (spiece.model only), `tokenizer_json/` and `text_encoder/`."""
    root = tmp_path_factory.mktemp("latte")
    tiny_text.write_spiece_folder(root / "tokenizer")
    tiny_text.write_json_folder(root / "tokenizer", root / "tokenizer_json")
    tiny_text.write_text_folder(root / "text_encoder", num_shards=3)
    return root


@pytest.fixture(scope="session")
def encoder(latte_folder: Path) -> TextEncoder:
    return TextEncoder.from_folder(latte_folder / "text_encoder", read=tiny_text.read_safetensors)


@pytest.fixture(scope="module")
def tokenizer(latte_folder: Path) -> PromptTokenizer:
    return PromptTokenizer.from_folder(latte_folder / "tokenizer")
