"""A Latte that starts from DiT's image weights (the paper's learning strategy a)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.malformed import torch_bytes
from latte_test_support.tiny.latte import NO_CLASSES, TEXT, tiny_latte, tiny_latte_weights
from latte_test_support.tiny.t2v import tiny_weights
from safetensors.torch import save_file
from torch import Tensor

from latte_core.checkpoint import initialize_from_dit
from latte_core.config.latte import LatteConfig
from latte_core.errors import (
    IncompatibleInputsError,
    InvalidInputError,
    UnknownArchitectureError,
    UnsafeCheckpointError,
    WeightMismatchError,
)
from latte_core.model.latte.transformer import Latte

DIT: dict[str, Any] = {"has_temporal": False, "num_frames": 1, "num_classes": 1000}
HEADS = {"num_heads": 2}
LABELS = "y_embedder.embedding_table.weight"


def dit_weights(**changes: Any) -> dict[str, Tensor]:
    return tiny_latte_weights(9, **{**DIT, **changes})


def write_dit(folder: Path, **changes: Any) -> Path:
    """Write a DiT as its authors publish it: bare weights in a .pt file."""
    path = folder / "DiT-XL-2-256x256.pt"
    path.write_bytes(torch_bytes(dit_weights(**changes)))
    return path


def fresh(**changes: Any) -> Latte:
    return Latte.from_config({**tiny_latte(**changes).config.to_dict()})


@pytest.mark.parametrize("variant", [1, 2])
def test_all_blocks_are_taken_and_labels_and_frame_positions_are_not(
    tmp_path: Path, variant: int
) -> None:
    model = fresh(variant=variant)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    record = initialize_from_dit(model, write_dit(tmp_path), HEADS)

    expected, found = dit_weights(), model.state_dict()
    assert set(record.taken) == set(expected) - {LABELS}
    assert {name for name in record.taken if name.startswith("blocks.3.")}
    assert all(torch.equal(found[name], expected[name]) for name in record.taken)
    assert record.left_out == (LABELS,)
    assert set(record.kept) == {"temp_embed", LABELS}
    assert all(torch.equal(found[name], before[name]) for name in record.kept)


def test_record_tells_a_person_what_became_of_the_weights(tmp_path: Path) -> None:
    record = initialize_from_dit(fresh(), write_dit(tmp_path), HEADS)
    assert record.source == "DiT-XL-2-256x256.pt"
    assert record.sentence == (
        f"Took {len(record.taken)} weights from DiT-XL-2-256x256.pt, a DiT (4 blocks, width 16, "
        f"patch 2) image model with 1000 classes. Not used: {LABELS}. As before: temp_embed, "
        f"{LABELS}."
    )


def test_model_of_one_frame_and_place_shows_what_the_image_model_shows(tmp_path: Path) -> None:
    # with one token, spatial and temporal attention are the same
    model = fresh(num_classes=1000, num_frames=1).eval()
    initialize_from_dit(model, write_dit(tmp_path), HEADS)
    latents, labels = torch.randn(2, 4, 1, 2, 2), torch.tensor([3, 1000])
    with torch.no_grad():
        model.temp_embed.zero_()
        found = model(latents, torch.tensor([3, 700]), labels)
        expected = tiny_latte(9, **DIT)(latents, torch.tensor([3, 700]), labels)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_labels_of_as_many_classes_are_taken(tmp_path: Path) -> None:
    model = fresh(num_classes=1000)
    record = initialize_from_dit(model, write_dit(tmp_path), HEADS)
    assert LABELS in record.taken
    assert record.left_out == ()
    assert record.kept == ("temp_embed",)
    assert "Not used" not in record.sentence


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        (NO_CLASSES, {"temp_embed"}),
        (TEXT, {"temp_embed", "text_embedding_projection.1.weight",
                "text_embedding_projection.1.bias"}),
        ({"temporal_positions": "rotary", **NO_CLASSES}, set[str]()),
        ({"input_size": 16, **NO_CLASSES}, {"temp_embed", "pos_embed"}),
    ],
    ids=["unconditional", "text", "rotary", "larger pictures"],
)  # fmt: skip
def test_what_an_image_model_does_not_have_stays(
    tmp_path: Path, changes: dict[str, Any], kept: set[str]
) -> None:
    model = fresh(**changes)
    own = model.pos_embed.clone()
    record = initialize_from_dit(model, write_dit(tmp_path), HEADS)
    assert set(record.kept) == kept
    assert LABELS in record.left_out
    assert torch.equal(model.pos_embed, own) == ("pos_embed" in kept or own.shape[1] == 16)


def test_variant_3_gets_spatial_attentions_and_keeps_temporal_ones(tmp_path: Path) -> None:
    model = fresh(variant=3)
    record = initialize_from_dit(model, write_dit(tmp_path), HEADS)
    assert {name.split(".")[2] for name in record.kept if name.startswith("blocks.")} == {
        "attn_temp"
    }
    assert "and 14 more" in record.sentence
    assert torch.equal(model.blocks[2].attn.qkv.weight, dit_weights()["blocks.2.attn.qkv.weight"])


def test_tubelets_of_equal_frames_are_embedded_as_the_picture(tmp_path: Path) -> None:
    model = fresh(tubelet_size=3)
    record = initialize_from_dit(model, write_dit(tmp_path), HEADS)
    assert "x_embedder.proj.weight" in record.taken
    assert set(record.kept) >= {"final_layer.temporal_up.weight", "final_layer.temporal_up.bias"}
    frame = torch.randn(1, 4, 1, 8, 8)
    with torch.no_grad():
        found = model.x_embedder(frame.expand(-1, -1, 3, -1, -1))
        expected = tiny_latte(9, **DIT).x_embedder(frame)
    torch.testing.assert_close(found, expected)


def test_type_of_the_model_stays(tmp_path: Path) -> None:
    model = fresh().to(torch.bfloat16)
    initialize_from_dit(model, write_dit(tmp_path), HEADS)
    weight = model.blocks[1].mlp.fc1.weight
    assert weight.dtype == torch.bfloat16 and weight.requires_grad
    assert torch.equal(weight, dit_weights()["blocks.1.mlp.fc1.weight"].bfloat16())
    assert not model.pos_embed.requires_grad


@pytest.mark.parametrize("layout", ["ema", "module", "safetensors"])
def test_other_layouts_are_read_too(tmp_path: Path, layout: str) -> None:
    path, weights = tmp_path / "dit.pt", dit_weights()
    if layout == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file(weights, path)
    else:
        prefixed = {f"module.{name}": value for name, value in weights.items()}
        path.write_bytes(torch_bytes({"ema": weights} if layout == "ema" else prefixed))
    model = fresh()
    initialize_from_dit(model, path, HEADS)
    assert torch.equal(model.blocks[3].mlp.fc2.bias, weights["blocks.3.mlp.fc2.bias"])


@pytest.mark.parametrize(
    ("image", "model", "words"),
    [
        ({"hidden_size": 32}, {}, ["width 32 instead of 16"]),
        ({"depth": 6}, {}, ["number of blocks 6 instead of 4"]),
        ({"patch_size": 4}, {}, ["patch size 4 instead of 2", "patch 4"]),
        ({"learn_sigma": False}, {}, ["output channels 4 instead of 8"]),
        ({}, {"mlp_ratio": 2.0}, ["feed-forward ratio 4.0 instead of 2.0"]),
        ({}, {"num_heads": 4}, ["number of heads of an attention 2 instead of 4"]),
        ({}, {"variant": 4}, ["number of heads of an attention 2 instead of 1", "variant 4"]),
        ({"depth": 5, "patch_size": 4}, {}, ["blocks 5 instead of 4", "patch size 4"]),
    ],
)
def test_image_model_of_another_size_is_refused_and_nothing_is_taken(
    tmp_path: Path, image: dict[str, Any], model: dict[str, Any], words: list[str]
) -> None:
    target = fresh(**model)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(IncompatibleInputsError) as caught:
        initialize_from_dit(target, write_dit(tmp_path, **image), HEADS)
    assert all(word in str(caught.value) for word in ["DiT-XL-2-256x256.pt", *words])
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_xl_of_23_blocks_is_told_from_the_28_of_dit() -> None:
    from latte_core.checkpoint.conversion.dit_init import require_same_sizes

    image = LatteConfig.preset("Latte-XL/2", has_temporal=False, extras=2, num_classes=1000)
    split = LatteConfig.preset("Latte-XL/2", variant=3)
    with pytest.raises(IncompatibleInputsError, match=r"it is a DiT-XL/2 .* 28 instead of 23"):
        require_same_sizes("DiT-XL-2-256x256.pt", image, split)
    require_same_sizes("DiT-XL-2-256x256.pt", image, LatteConfig.preset("Latte-XL/2"))


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (tiny_latte_weights(), "a class-conditional or unconditional Latte.*load it itself"),
        (tiny_weights(), "text-to-video"),
    ],
    ids=["Latte", "LatteT2V"],
)
def test_other_model_is_named(tmp_path: Path, weights: dict[str, Tensor], words: str) -> None:
    path = tmp_path / "w.safetensors"
    save_file(weights, path)
    with pytest.raises(UnknownArchitectureError, match=words):
        initialize_from_dit(fresh(), path, HEADS)


def test_unfinished_and_hostile_files_are_refused(tmp_path: Path) -> None:
    path, weights = tmp_path / "w.pt", dit_weights()
    del weights["blocks.1.mlp.fc1.bias"]
    path.write_bytes(torch_bytes(weights))
    with pytest.raises(WeightMismatchError, match="1 missing: blocks.1.mlp.fc1.bias"):
        initialize_from_dit(fresh(), path, HEADS)

    class Payload:
        def __reduce__(self) -> Any:
            return (print, ("ran",))

    path.write_bytes(torch_bytes({"ema": dit_weights(), "note": Payload()}))
    with pytest.raises(UnsafeCheckpointError):
        initialize_from_dit(fresh(), path, HEADS)


def test_model_without_storage_is_refused(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = fresh()
    with pytest.raises(InvalidInputError, match="meta device"):
        initialize_from_dit(model, write_dit(tmp_path), HEADS)
