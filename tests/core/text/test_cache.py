"""Encoded prompts that are kept: in memory, on disk, and what makes them invalid."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latte_core.checkpoint.reading.reader import read_tensors
from latte_core.checkpoint.writing.writer import write_safetensors
from latte_core.files import cache_folder
from latte_core.text.cache import CachedEncoder, EmbeddingCache, PromptFeatures, feature_key
from latte_core.text.fingerprint import SAMPLE_BYTES, SAMPLES, fingerprint, sample_starts
from latte_core.text.pair import encode_pair
from latte_core.text.store import EmbeddingStore
from latte_core.text.t5 import TextEncoder

ROWS = 120
LONG = " ".join(["fish"] * 200)


def features(fill: float, width: int = 8) -> PromptFeatures:
    return PromptFeatures(
        embeds=torch.full((ROWS, width), fill, dtype=torch.bfloat16),
        mask=torch.arange(ROWS) < 5,
        notices=("cut",),
    )


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    write_safetensors(path, tensors, metadata)


def read(path: Path) -> Any:
    file = read_tensors(path)
    return file.tensors, file.metadata


def store_in(folder: Path, **options: Any) -> EmbeddingStore:
    return EmbeddingStore(folder, read=read, write=write, **options)


def is_same(one: PromptFeatures, other: PromptFeatures | None) -> bool:
    return (
        other is not None
        and one.embeds.dtype == other.embeds.dtype
        and torch.equal(one.embeds, other.embeds)
        and torch.equal(one.mask, other.mask)
        and one.notices == other.notices
    )


class Counting:
    """Opens an encoder, and counts how often that was asked for."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder
        self.opened = 0

    def __call__(self) -> TextEncoder:
        self.opened += 1
        return self.encoder


def test_known_prompts_are_bit_equal_and_need_no_encoder(encoder: TextEncoder) -> None:
    counting = Counting(encoder)
    cached = CachedEncoder(EmbeddingCache(), {"weights": "a"}, counting)
    first = encode_pair(cached, "a red circle", "blue")
    assert counting.opened == 1
    second = encode_pair(cached, "a red circle", "blue")
    assert counting.opened == 1
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_cached_features_are_those_of_the_encoder(encoder: TextEncoder) -> None:
    cached = CachedEncoder(EmbeddingCache(), {}, lambda: encoder)
    texts = ["a red circle", "", "blue fish"]
    plain, found = encoder.encode(texts), cached.encode(texts)
    assert torch.equal(found.mask, plain.mask)
    assert (found.embeds - plain.embeds).abs().max() <= 1e-5


def test_features_do_not_depend_on_which_others_are_known(encoder: TextEncoder) -> None:
    fresh = CachedEncoder(EmbeddingCache(), {}, lambda: encoder)
    used = CachedEncoder(EmbeddingCache(), {}, lambda: encoder)
    used.encode(["blue fish", ""])
    assert torch.equal(
        used.encode(["a red circle", ""]).embeds, fresh.encode(["a red circle", ""]).embeds
    )


def test_empty_negative_is_kept_with_all_rows_and_cut_to_any_positive(
    encoder: TextEncoder,
) -> None:
    counting = Counting(encoder)
    cached = CachedEncoder(EmbeddingCache(), {}, counting)
    short = encode_pair(cached, "red")[1]
    long = encode_pair(cached, "a red circle moving left and a blue square moving up")[1]
    assert counting.opened == 2  # for the second positive, but not for the negative again
    assert long.shape[1] > short.shape[1]
    assert torch.equal(long[:, : short.shape[1]], short)


def test_prompt_that_is_cut_says_so_each_time(encoder: TextEncoder) -> None:
    cached = CachedEncoder(EmbeddingCache(), {}, lambda: encoder)
    first = cached.encode([LONG]).notices
    assert len(first) == 1
    assert cached.encode([LONG]).notices == first


@pytest.mark.parametrize(
    "changed",
    [
        {"weights": "b"},
        {"tokenizer": "b"},
        {"dtype": "torch.float16"},
        {"device": "cpu"},
        {"more": 1},
    ],
)
def test_anything_else_in_the_identity_is_another_key(changed: dict[str, Any]) -> None:
    identity = {"weights": "a", "tokenizer": "a", "dtype": "torch.float32", "device": "gpu"}
    key = feature_key(identity, "a fish")
    assert feature_key({**identity, **changed}, "a fish") != key
    assert feature_key(dict(reversed(identity.items())), "a fish") == key
    assert feature_key(identity, "a fish ") != key
    assert len(key) == 64


def test_memory_lets_go_of_what_was_not_used_for_longest() -> None:
    each = features(0).num_bytes
    cache = EmbeddingCache(max_bytes=2 * each)
    for name in "ab":
        cache.put(name, features(1))
    assert cache.get("a") is not None
    cache.put("c", features(2))
    assert cache.num_bytes == 2 * each
    assert cache.get("b") is None
    assert cache.get("a") is not None
    assert cache.get("c") is not None


def test_features_larger_than_the_limit_are_kept_alone() -> None:
    cache = EmbeddingCache(max_bytes=1)
    cache.put("a", features(1))
    assert cache.get("a") is not None
    cache.put("b", features(2))
    assert cache.get("a") is None


def test_store_gives_back_every_bit_to_another_process(tmp_path: Path) -> None:
    store_in(tmp_path / "new").save("a", features(0.1))
    assert is_same(features(0.1), store_in(tmp_path / "new").load("a"))
    assert store_in(tmp_path / "new").load("b") is None


def test_cache_asks_the_store_once_and_memory_afterwards(tmp_path: Path) -> None:
    store_in(tmp_path).save("a", features(0.1))
    cache = EmbeddingCache(store_in(tmp_path))
    assert is_same(features(0.1), cache.get("a"))
    store_in(tmp_path).path_of("a").unlink()
    assert is_same(features(0.1), cache.get("a"))


def damage_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-200] ^= 4
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def write_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html>no</html>")


def write_other(path: Path) -> None:
    write_safetensors(path, {"weight": torch.ones(3)})


def write_rows(path: Path) -> None:
    write_safetensors(
        path,
        {"embeds": torch.ones(7, 8), "mask": torch.ones(ROWS, dtype=torch.bool)},
        {"notices": "[]"},
    )


def write_nan(path: Path) -> None:
    write_safetensors(
        path,
        {"embeds": torch.full((ROWS, 8), float("nan")), "mask": torch.ones(ROWS).bool()},
        {"notices": "[]"},
    )


@pytest.mark.parametrize(
    "damage", [damage_bit, cut_short, write_page, write_other, write_rows, write_nan]
)
def test_damaged_file_is_dropped_with_a_line_and_computed_again(
    tmp_path: Path, damage: Any, encoder: TextEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    def cached() -> CachedEncoder:
        return CachedEncoder(EmbeddingCache(store_in(tmp_path)), {}, counting)

    counting = Counting(encoder)
    expected = cached().encode(["red"]).embeds
    (path,) = tmp_path.iterdir()
    damage(path)
    assert torch.equal(cached().encode(["red"]).embeds, expected)
    assert counting.opened == 2
    assert "computed again" in caplog.text
    assert torch.equal(cached().encode(["red"]).embeds, expected)
    assert counting.opened == 2


def test_store_removes_what_was_not_used_for_longest(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.save("a", features(1))
    size = store.path_of("a").stat().st_size
    store = store_in(tmp_path, max_bytes=2 * size + size // 2)
    store.save("b", features(2))
    now = time.time()
    os.utime(store.path_of("a"), (now - 200, now - 200))
    os.utime(store.path_of("b"), (now - 100, now - 100))
    assert store.load("a") is not None  # used now
    store.save("c", features(3))
    assert {path.stem for path in tmp_path.iterdir()} == {"a", "c"}


def test_folder_that_cannot_be_written_is_mentioned_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    store = store_in(tmp_path / "file" / "inside")
    store.save("a", features(1))
    store.save("b", features(1))
    assert caplog.text.count("are not kept in") == 1


def test_files_hold_no_word_of_a_prompt(tmp_path: Path, encoder: TextEncoder) -> None:
    cached = CachedEncoder(EmbeddingCache(store_in(tmp_path)), {}, lambda: encoder)
    cached.encode(["yellow fish"])
    (path,) = tmp_path.iterdir()
    assert b"yellow" not in path.read_bytes()
    assert "yellow" not in path.name


def test_no_partial_files_are_left_and_names_are_keys(tmp_path: Path) -> None:
    key = feature_key({}, "a fish")
    store_in(tmp_path).save(key, features(1))
    assert [path.name for path in tmp_path.iterdir()] == [f"{key}.safetensors"]


@pytest.mark.parametrize(
    ("environment", "platform", "expected"),
    [
        ({"LATTE_CACHE_DIR": "/mine"}, "linux", "/mine"),
        ({"LATTE_CACHE_DIR": " ", "XDG_CACHE_HOME": "/xdg"}, "linux", "/xdg/comfyui-latte"),
        ({}, "linux", "~/.cache/comfyui-latte"),
        ({"LATTE_CACHE_DIR": "~/here"}, "darwin", "~/here"),
        ({}, "darwin", "~/Library/Caches/comfyui-latte"),
        ({"LOCALAPPDATA": "/data"}, "win32", "/data/comfyui-latte"),
        ({}, "win32", "~/AppData/Local/comfyui-latte"),
    ],
)
def test_cache_folder_is_the_users_own(
    environment: dict[str, str], platform: str, expected: str
) -> None:
    assert cache_folder(environment, platform) == Path(expected).expanduser()


def test_samples_cover_a_small_file_and_both_ends_of_a_large_one() -> None:
    assert sample_starts(0) == []
    assert sample_starts(3 * SAMPLE_BYTES + 1) == [0, *(n * SAMPLE_BYTES for n in (1, 2, 3))]
    starts = sample_starts(10**10)
    assert len(starts) == SAMPLES
    assert starts[0] == 0
    assert starts[-1] == 10**10 - SAMPLE_BYTES


def change_byte(path: Path) -> None:
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=times)


def change_size(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def change_time(path: Path) -> None:
    os.utime(path, (1, 1))


def change_name(path: Path) -> None:
    path.rename(path.with_name("other"))


@pytest.mark.parametrize("change", [change_byte, change_size, change_time, change_name])
def test_fingerprint_sees_a_changed_file(tmp_path: Path, change: Any) -> None:
    for name in ("first", "second"):
        (tmp_path / name).write_bytes(bytes(range(256)) * 50)
    before = fingerprint(tmp_path.iterdir())
    assert fingerprint(reversed(sorted(tmp_path.iterdir()))) == before
    change(tmp_path / "second")
    assert fingerprint(tmp_path.iterdir()) != before
