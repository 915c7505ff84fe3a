"""Small JSON files from outside: what cannot be used is named, with its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from latte_core.errors import CheckpointError, CorruptCheckpointError
from latte_core.files import json_object, read_json


def test_object_of_just_the_allowed_length_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes('{"a": "\u00e9"}'.encode())
    assert read_json(path, limit=11) == {"a": "\u00e9"}
    with pytest.raises(
        CorruptCheckpointError, match=f"{tmp_path.name} is longer than the 10 bytes"
    ):
        read_json(path, limit=10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is missing in the folder"),
        (b"{", "is not JSON text"),
        (b'{"a": "\xe9"}', "is not UTF-8 text: line 1 holds the byte 0xE9"),
        (b"[" * 100_000, "is not JSON text"),
        (b"[1]", "holds a list"),
    ],
)
def test_file_that_is_no_object_is_named(tmp_path: Path, text: bytes | None, message: str) -> None:
    path = tmp_path / "config.json"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(CorruptCheckpointError, match=f"^config.json .*{message}"):
        read_json(path)


def test_file_that_cannot_be_opened_ends_in_our_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "config.json"
    path.write_text("{}")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError, match="cannot be opened: Permission denied"):
        read_json(path)


def test_text_that_is_no_object_is_told_by_its_place() -> None:
    with pytest.raises(CorruptCheckpointError, match="^The card holds a int"):
        json_object("The card", "5")
