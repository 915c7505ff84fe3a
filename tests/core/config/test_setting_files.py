"""Text and settings as people save them: encodings, YAML's surprises, and lines in messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latte_core.cli.sample.reference_settings import read_settings
from latte_core.data.captions import read_captions
from latte_core.errors import InvalidInputError
from latte_core.files import read_json
from latte_core.setting_files import read_table
from latte_core.text_files import decode_text, read_text, user_path
from latte_core.training.train_config import parse_config

WORDS = "output: vid\u00e9os \u52a8\u753b\ndata: set\n"
BASE = "data: set\noutput: run\n"


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_usual_encodings_and_line_endings_are_read(
    tmp_path: Path, encoding: str, ending: str
) -> None:
    text = f"# settings\nseed: 5\n{WORDS}"
    (tmp_path / "a.yaml").write_bytes(text.replace("\n", ending).encode(encoding))
    assert read_text(tmp_path / "a.yaml", most=999) == text
    assert parse_config(tmp_path / "a.yaml").output == "vid\u00e9os \u52a8\u753b"
    (tmp_path / "a.json").write_bytes(json.dumps({"a": "\u52a8"}).encode(encoding))
    assert read_json(tmp_path / "a.json") == {"a": "\u52a8"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a\nvid\u00e9os".encode("cp1252"), "line 2 holds the byte 0xE9"),
        ("\u52a8\u753b".encode("gbk"), "line 1 holds the byte"),
        (b"\xff\xfea\0\n\0\0\xd8x\0", "begins like UTF-16 text, but line 2"),
        (b"text\0text", "line 1 holds a zero byte"),
        (b"\x89PNG\r\n\x1a\n", "is not UTF-8 text"),
    ],
)
def test_what_is_no_text_is_told_with_its_line(data: bytes, message: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^notes.txt .*{message}"):
        decode_text(data, "notes.txt")


def test_captions_in_another_encoding_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("ein Kreis\r\n\u5706".encode("utf-16"))
    found = read_captions(tmp_path, {"a.mp4": tmp_path / "a.mp4"})
    assert found == {"a.mp4": ("ein Kreis", "\u5706")}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", BASE + "learning_rate: 2024-05-01\n", "line 3: learning_rate is '2024-05-01'"),
        ("a.yaml", BASE + "\n# x\nnum_steps: 1:30\n", "line 5: num_steps is '1:30'"),
        ("a.yaml", BASE + "num_steps: 010\n", "line 3: num_steps is '010'"),
        ("a.yaml", BASE + "flip: maybe\n", "line 3: flip is 'maybe'"),
        ("a.yaml", BASE + "model: [a]\n", "line 3: model is"),
        ("a.yaml", "data: set\noutput: 5\n", "line 2: output is 5"),
        ("a.yaml", BASE + "lora:\n  rank: 4\n  rnk: 3\n", "line 5: lora has no use for rnk"),
        ("a.yaml", BASE + "lora:\n  rank: many\n", "line 3: lora"),
        ("a.yaml", BASE + "colour: red\n", "line 3: The training config has no use for colour"),
        ("a.yaml", BASE + "seed: 1\nseed: 2\n", "says seed twice, on lines 3 and 4"),
        ("a.yaml", BASE + "seed: [1\n", "is not YAML: line"),
        ("a.yaml", BASE + "\tseed: 1\n", "is not YAML: line 3"),
        ("a.yaml", BASE + "x: " + "[" * 5000 + "]" * 5000, "deep"),
        ("a.yaml", BASE + "x: " + "[" * 150 + "]" * 150, "deep"),
        ("a.yaml", BASE + "x: &x [*x]\n", "deep"),
        ("a.yaml", BASE + "x: !!int many\n", "cannot be read"),
        ("a.yaml", "- data\n- set\n", "holds a list"),
        ("a.yaml", "", "holds nothing"),
        ("a.json", '{"data": "s",\n "output": "r",\n "seed": -1}', "line 3: seed is -1"),
        ("a.json", '{"data": "s",\n "output": "r",\n "lora": {"rnk": 3}}', "line 3: lora"),
        ("a.json", '{"data": "s",\n "data": "t"}', "says data twice, on lines 1 and 2"),
        ("a.json", '{"data": "s",\n}', "is not JSON: line"),
        ("a.json", '{"a":' * 9999, "deep|not JSON"),
        ("a.json", "[1, 2]", "holds a list"),
        ("a.json", '{"seed": ' + "9" * 5000 + "}", "is not JSON"),
    ],
)
def test_wrong_settings_name_the_file_the_line_and_the_key(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidInputError, match=rf"^{name}.*{message}"):
        parse_config(tmp_path / name)


def test_values_that_grow_without_end_are_refused_in_little_time(tmp_path: Path) -> None:
    rows = [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 20)]
    (tmp_path / "a.yaml").write_text("\n".join(["a0: &a0 [x]", *rows]))
    with pytest.raises(InvalidInputError, match=r"a\.yaml holds values inside values"):
        read_table(tmp_path / "a.yaml")


def test_settings_of_the_authors_name_the_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("ckpt: x\ncfg_scale: 2024-01-01\n")
    with pytest.raises(InvalidInputError, match=r"a\.yaml, line 2, says cfg_scale: '2024-01-01'"):
        read_settings(tmp_path / "a.yaml")


def test_home_is_known_in_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "a.yaml").write_text("data: [~/one, two]\noutput: ~/run\n")
    config = parse_config("~/a.yaml")
    assert config.data == (str(tmp_path / "one"), "two")
    assert config.output == str(tmp_path / "run")
    assert user_path("~nobody-of-this-name/x") == "~nobody-of-this-name/x"
