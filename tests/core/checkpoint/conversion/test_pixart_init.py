"""A LatteT2V that starts from PixArt-alpha's image weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.malformed import torch_bytes
from latte_test_support.tiny.latte import tiny_latte_weights
from latte_test_support.tiny.t2v import tiny_model, tiny_weights
from safetensors.torch import save_file
from torch import Tensor

from latte_core.checkpoint.conversion.pixart_init import initialize_from_pixart
from latte_core.errors import (
    IncompatibleInputsError,
    InvalidInputError,
    UnknownArchitectureError,
    UnsafeCheckpointError,
    WeightMismatchError,
)
from latte_core.model.positional import temporal_table
from latte_core.model.t2v.transformer import LatteT2V

SIZES: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 2,
    "cross_attention_dim": 16,
    "caption_channels": 24,
    "sample_size": 8,
}
NAME = "diffusion_pytorch_model.safetensors"
OUTER = {
    "pos_embed.proj": "x_embedder.proj",
    "adaln_single.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "adaln_single.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "adaln_single.linear": "t_block.1",
    "caption_projection.linear_1": "y_embedder.y_proj.fc1",
    "caption_projection.linear_2": "y_embedder.y_proj.fc2",
    "proj_out": "final_layer.linear",
}


def pixart(**changes: Any) -> Any:
    """Return diffusers' PixArt transformer with random weights."""
    from diffusers import PixArtTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        image = PixArtTransformer2DModel(**{**SIZES, **changes})
        for parameter in image.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return image.eval()


def write_folder(folder: Path, **changes: Any) -> Path:
    pixart(**changes).save_pretrained(folder)
    return folder


def authors_weights(**changes: Any) -> dict[str, Tensor]:
    """Return PixArt's weights under the names of its authors."""
    weights = pixart(**changes).state_dict()
    result = {"pos_embed": torch.zeros(1, 16, 16), "y_embedder.y_embedding": torch.zeros(120, 24)}
    result["final_layer.scale_shift_table"] = weights["scale_shift_table"]
    for ours, theirs in OUTER.items():
        for kind in ("weight", "bias"):
            result[f"{theirs}.{kind}"] = weights[f"{ours}.{kind}"]
    for index in range(2):
        start, target = f"transformer_blocks.{index}.", f"blocks.{index}."
        result[f"{target}scale_shift_table"] = weights[f"{start}scale_shift_table"]
        joined = {
            "attn.qkv": ["attn1.to_q", "attn1.to_k", "attn1.to_v"],
            "attn.proj": ["attn1.to_out.0"],
            "cross_attn.q_linear": ["attn2.to_q"],
            "cross_attn.kv_linear": ["attn2.to_k", "attn2.to_v"],
            "cross_attn.proj": ["attn2.to_out.0"],
            "mlp.fc1": ["ff.net.0.proj"],
            "mlp.fc2": ["ff.net.2"],
        }
        for theirs, ours in joined.items():
            for kind in ("weight", "bias"):
                parts = [weights[f"{start}{name}.{kind}"] for name in ours]
                result[f"{target}{theirs}.{kind}"] = torch.cat(parts)
    return result


def inputs(frames: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return two clips of 8 x 12 cells with their steps, texts and masks."""
    draws = torch.Generator().manual_seed(2)
    mask = torch.ones(2, 5)
    mask[1, 3:] = 0
    latents = torch.randn(2, 4, frames, 8, 12, generator=draws)
    return latents, torch.tensor([30, 800]), torch.randn(2, 5, 24, generator=draws), mask


def pictures(image: Any, frames: int, *, table: Tensor | None = None) -> Tensor:
    """Return what PixArt makes of each frame, the table's row added behind its first block."""
    latents, steps, text, mask = inputs(frames)
    made: list[Tensor] = []
    for index in range(frames):

        def add_row(_: Any, __: Any, out: Tensor, index: int = index) -> Tensor:
            return out if table is None else out + table[index]

        hook = image.transformer_blocks[0].register_forward_hook(add_row)
        with torch.no_grad():
            made.append(
                image(
                    latents[:, :, index],
                    encoder_hidden_states=text,
                    timestep=steps,
                    added_cond_kwargs={"resolution": None, "aspect_ratio": None},
                    encoder_attention_mask=mask,
                    return_dict=False,
                )[0]
            )
        hook.remove()
    return torch.stack(made, dim=2)


def video(model: LatteT2V, frames: int, **options: Any) -> Tensor:
    with torch.no_grad():
        return model(*inputs(frames), **options)


def test_one_frame_is_the_picture_with_temporal_attention_on(tmp_path: Path) -> None:
    model = tiny_model(3)
    initialize_from_pixart(model, write_folder(tmp_path / "transformer"))
    expected = pictures(pixart(), 1)
    torch.testing.assert_close(video(model, 1), expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 0.1


def test_frames_are_pictures_without_temporal_attention(tmp_path: Path) -> None:
    model = tiny_model(3)
    initialize_from_pixart(model, write_folder(tmp_path / "transformer"))
    found = video(model, 3, enable_temporal_attention=False)
    torch.testing.assert_close(found, pictures(pixart(), 3), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("frames", [3, 8, 24])
def test_temporal_table_is_all_that_tells_a_clip_from_pictures(tmp_path: Path, frames: int) -> None:
    model = tiny_model(3)
    initialize_from_pixart(model, write_folder(tmp_path / "transformer"))
    table = temporal_table(16, frames, torch.device("cpu"))
    expected = pictures(pixart(), frames, table=table)
    torch.testing.assert_close(video(model, frames), expected, atol=1e-5, rtol=1e-5)


def test_idle_blocks_can_be_trained(tmp_path: Path) -> None:
    model = tiny_model(3)
    initialize_from_pixart(model, write_folder(tmp_path / "transformer"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):  # what lies before a layer of zeros gets its gradient afterwards
        optimizer.zero_grad()
        model(*inputs(3)).square().mean().backward()
        optimizer.step()
    block: Any = model.temporal_transformer_blocks[1]
    assert all(one.grad is not None and one.grad.any() for one in block.parameters())


def test_record_says_what_became_of_every_weight(tmp_path: Path) -> None:
    model = tiny_model(3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    record = initialize_from_pixart(model, write_folder(tmp_path / "transformer"))
    expected, found = pixart().state_dict(), model.state_dict()
    assert set(record.taken) == set(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    idle = set(found) - set(record.taken) - set(record.kept)
    ends = ("attn1.to_out.0.weight", "attn1.to_out.0.bias", "ff.net.2.weight", "ff.net.2.bias")
    assert idle == {f"temporal_transformer_blocks.{i}.{end}" for i in range(2) for end in ends}
    assert not any(found[name].any() for name in idle)
    assert all(torch.equal(found[name], before[name]) for name in record.kept)
    assert record.left_out == ()
    assert record.sentence == (
        f"Took {len(expected)} weights from transformer, a PixArt image model of 2 blocks and "
        "width 16. The 2 temporal blocks add nothing until they are trained."
    )


@pytest.mark.parametrize(
    "layout", ["whole model", "file", "authors", "authors' checkpoint", "fp16"]
)
def test_other_layouts_give_the_same(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "PixArt-XL-2-512x512.pth"
    if layout == "whole model":
        path = write_folder(tmp_path / "transformer").parent
        (path / "model_index.json").write_text('{"_class_name": "PixArtAlphaPipeline"}')
    elif layout == "file":
        path = write_folder(tmp_path / "transformer") / NAME
    elif layout == "fp16":
        save_file({name: value.half() for name, value in pixart().state_dict().items()},
                  tmp_path / "a.safetensors")  # fmt: skip
        path = tmp_path / "a.safetensors"
    else:
        weights = authors_weights()
        path.write_bytes(torch_bytes(weights if layout == "authors" else {"state_dict": weights}))
    model = tiny_model(3)
    record = initialize_from_pixart(model, path)
    assert len(record.taken) == len(pixart().state_dict())
    if layout.startswith("authors"):
        assert set(record.left_out) == {"pos_embed", "y_embedder.y_embedding"}
        assert "Not used: pos_embed, y_embedder.y_embedding." in record.sentence
    limit = 1e-2 if layout == "fp16" else 1e-5
    torch.testing.assert_close(video(model, 1), pictures(pixart(), 1), atol=limit, rtol=limit)


def test_type_of_the_model_stays(tmp_path: Path) -> None:
    model = tiny_model(3).to(torch.bfloat16)
    initialize_from_pixart(model, write_folder(tmp_path / "transformer"))
    weight = model.proj_out.weight
    assert weight.dtype == torch.bfloat16 and weight.requires_grad
    assert torch.equal(weight, pixart().proj_out.weight.bfloat16())


def test_image_model_that_is_told_sizes_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "transformer", use_additional_conditions=True)
    with pytest.raises(IncompatibleInputsError, match=r"emb\..*_embedder.* for 1024 pixels"):
        initialize_from_pixart(tiny_model(), folder)
    weights = {**authors_weights(), "csize_embedder.mlp.0.weight": torch.zeros(8, 256)}
    save_file(weights, tmp_path / "1024.safetensors")
    with pytest.raises(IncompatibleInputsError, match="1024.safetensors cannot start a Latte"):
        initialize_from_pixart(tiny_model(), tmp_path / "1024.safetensors")


def test_other_numbering_of_places_is_said(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "transformer", sample_size=4)
    record = initialize_from_pixart(tiny_model(), folder)
    assert "made for latents of 4 cells a side, this one for 8" in record.sentence


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_layers": 3}, "blocks 3 instead of 2"),
        (
            {"num_attention_heads": 4, "cross_attention_dim": 32},
            "width 32 instead of 16, attention",
        ),
        ({"num_attention_heads": 4, "attention_head_dim": 4}, "attention heads 4 instead of 2"),
        ({"caption_channels": 32}, "width of the text 32 instead of 24"),
        ({"patch_size": 4}, "patch size 4 instead of 2, rows of the last layer 128 instead of 32"),
        ({"out_channels": 4}, "rows of the last layer 16 instead of 32"),
    ],
)
def test_image_model_of_another_size_is_refused_and_nothing_is_taken(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(IncompatibleInputsError, match=words):
        initialize_from_pixart(model, write_folder(tmp_path / "transformer", **changes))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_unfinished_and_strange_weights_are_refused(tmp_path: Path) -> None:
    weights = pixart().state_dict()
    path = tmp_path / "a.safetensors"
    save_file({k: v for k, v in weights.items() if k != "proj_out.weight"}, path)
    with pytest.raises(WeightMismatchError, match=r"1 weights are missing \(proj_out.weight\)"):
        initialize_from_pixart(tiny_model(), path)
    save_file({**weights, "transformer_blocks.0.attn1.norm_q.weight": torch.ones(8)}, path)
    with pytest.raises(WeightMismatchError, match=r"1 are unknown .*norm_q.weight"):
        initialize_from_pixart(tiny_model(), path)
    save_file({**authors_weights(), "blocks.0.attn.sr.weight": torch.ones(8)}, path)
    with pytest.raises(WeightMismatchError, match=r"1 are unknown .*blocks.0.attn.sr.weight"):
        initialize_from_pixart(tiny_model(), path)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (tiny_weights(), "cannot be used as an image model to start from.*text-to-video"),
        (tiny_latte_weights(has_temporal=False, num_frames=1, num_classes=1000), "DiT"),
    ],
    ids=["LatteT2V", "DiT"],
)
def test_other_model_is_named(tmp_path: Path, weights: dict[str, Tensor], words: str) -> None:
    path = tmp_path / "w.safetensors"
    save_file(weights, path, {"config": json.dumps({"num_heads": 2})})
    with pytest.raises(UnknownArchitectureError, match=words):
        initialize_from_pixart(tiny_model(), path)


def test_hostile_file_and_model_without_storage_are_refused(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return (print, ("ran",))

    path = tmp_path / "w.pth"
    path.write_bytes(torch_bytes({"state_dict": authors_weights(), "note": Payload()}))
    with pytest.raises(UnsafeCheckpointError):
        initialize_from_pixart(tiny_model(), path)
    with torch.device("meta"):
        model = LatteT2V.from_config(tiny_model().config)
    with pytest.raises(InvalidInputError, match="meta device"):
        initialize_from_pixart(model, write_folder(tmp_path / "transformer"))
