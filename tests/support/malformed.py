"""Builders of every broken, hostile or wrong file that the reader must survive (docs/faults.md 1).

None is stored as a blob; each is made from its description.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from latte_core.vae.config import VaeConfig
from latte_core.vae.layout import vae_layout

Shape = tuple[int, ...]
VAE_SIZES: dict[str, Any] = {"block_out_channels": (32, 64), "layers_per_block": 1}


def t5_shapes(layers: int = 2) -> dict[str, Shape]:
    """Return the weights of an encoder with XXL's widths and fewer layers."""
    shapes: dict[str, Shape] = {
        "shared.weight": (32128, 4096),
        "encoder.final_layer_norm.weight": (4096,),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 64),
    }
    for number in range(layers):
        block = f"encoder.block.{number}.layer"
        shapes |= {f"{block}.0.SelfAttention.{name}.weight": (4096, 4096) for name in "qkvo"}
        shapes |= {f"{block}.{part}.layer_norm.weight": (4096,) for part in (0, 1)}
        feed = f"{block}.1.DenseReluDense"
        shapes |= {f"{feed}.{name}.weight": (10240, 4096) for name in ("wi_0", "wi_1")}
        shapes[f"{feed}.wo.weight"] = (4096, 10240)
    return shapes


class Payload:
    """An object whose unpickling creates a marker file."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (eval, (f"open({self.marker!r}, 'w').close()",))


def torch_bytes(content: object, *, is_zip: bool = True) -> bytes:
    """Return what torch.save writes."""
    target = io.BytesIO()
    torch.save(content, target, _use_new_zipfile_serialization=is_zip)
    return target.getvalue()


def pickle_bytes(content: object, protocol: int = 2) -> bytes:
    """Return a plain pickle, not one of torch's."""
    return pickle.dumps(content, protocol=protocol)


def safetensors_bytes(
    header: object, data: bytes = b"", *, length: int | None = None, raw: bytes | None = None
) -> bytes:
    """Return a safetensors file with any header, sensible or not."""
    text = json.dumps(header).encode() if raw is None else raw
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[Any], begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    """Return the description of one tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def small_safetensors(metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a whole file of three small tensors."""
    header: dict[str, Any] = {
        "first": entry([2, 3], 0, 24),
        "second": entry([4], 24, 32, "F16"),
        "third": entry([], 32, 36),
    }
    if metadata is not None:
        header = {"__metadata__": dict(metadata), **header}
    return safetensors_bytes(header, bytes(range(36)))


def bad_headers() -> dict[str, bytes]:
    """Return one safetensors file for every way in which a header can lie (R05)."""
    good = entry([2], 0, 8)
    many = {f"t{number}": entry([0], 0, 0) for number in range(20_001)}
    return {
        "length beyond the file": safetensors_bytes({}, length=1000),
        "length beyond the limit": safetensors_bytes({}, length=17 * 2**20),
        "length beyond 64-bit files": safetensors_bytes({}, length=2**63),
        "header of 17 MB": safetensors_bytes({}, raw=b"{" + b" " * (17 * 2**20) + b"}"),
        "not JSON": safetensors_bytes({}, raw=b"{'w': 1}"),
        "not UTF-8": safetensors_bytes({}, raw=b'{"\xff\xfe": 1}'),
        "deeply nested": safetensors_bytes({}, raw=b'{"a":' + b"[" * 200_000),
        "endless number": safetensors_bytes({}, raw=b'{"a":' + b"9" * 5000 + b"}"),
        "entry is a number": safetensors_bytes({"w": 5}),
        "entry lacks a field": safetensors_bytes({"w": {"dtype": "F32", "shape": [2]}}, bytes(8)),
        "too many tensors": safetensors_bytes(many),
        "overlapping": safetensors_bytes({"a": good, "b": entry([2], 4, 12)}, bytes(12)),
        "a gap": safetensors_bytes({"a": good, "b": entry([2], 12, 20)}, bytes(20)),
        "a gap at the start": safetensors_bytes({"a": entry([2], 8, 16)}, bytes(16)),
        "bytes behind the end": safetensors_bytes({"a": good}, bytes(12)),
        "shape larger than data": safetensors_bytes({"a": entry([200000, 200000], 0, 8)}, bytes(8)),
        "shape smaller than data": safetensors_bytes({"a": entry([1], 0, 8)}, bytes(8)),
        "shape that overflows": safetensors_bytes({"a": entry([2**31] * 3, 0, 8)}, bytes(8)),
        "zero-sized giant": safetensors_bytes({"a": entry([0, 2**62], 0, 0)}),
        "negative size": safetensors_bytes({"a": entry([-2], 0, 8)}, bytes(8)),
        "size not whole": safetensors_bytes({"a": entry([2.0], 0, 8)}, bytes(8)),
        "size is a truth value": safetensors_bytes({"a": entry([True, 2], 0, 8)}, bytes(8)),
        "hundred dimensions": safetensors_bytes({"a": entry([1] * 99 + [2], 0, 8)}, bytes(8)),
        "shape is text": safetensors_bytes(
            {"a": {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]}}, bytes(8)
        ),
        "backward offsets": safetensors_bytes({"a": entry([2], 8, 0)}, bytes(8)),
        "one offset": safetensors_bytes(
            {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}}, bytes(8)
        ),
        "unknown type": safetensors_bytes({"a": entry([2], 0, 8, "F33")}, bytes(8)),
        "type is a list": safetensors_bytes({"a": entry([2], 0, 8, ["F32"])}, bytes(8)),
        "doubled name": safetensors_bytes(
            {}, bytes(8), raw=f'{{"a":{json.dumps(good)},"a":{json.dumps(good)}}}'.encode()
        ),
        "metadata is a list": safetensors_bytes({"__metadata__": [1], "a": good}, bytes(8)),
        "metadata value is a number": safetensors_bytes(
            {"__metadata__": {"k": 1}, "a": good}, bytes(8)
        ),
        "metadata of 5 MB": safetensors_bytes(
            {"__metadata__": {"k": "x" * 5_000_000}, "a": good}, bytes(8)
        ),
    }


def odd_tensors() -> dict[str, Any]:
    """Return tensors that weights_only unpickling allows and that are no ordinary weights (R03)."""
    dense = torch.eye(3)
    return {
        "one number shown as 160 GB": torch.ones(1).expand(200_000, 200_000),
        "sparse": dense.to_sparse(),
        "sparse rows": csr_eye(),
        "meta": torch.empty(3, 3, device="meta"),
        "quantised": torch.quantize_per_tensor(dense, 0.1, 0, torch.qint8),
        "subclass": torch.nn.Buffer(dense) if hasattr(torch.nn, "Buffer") else dense.to_sparse(),
    }


def csr_eye() -> torch.Tensor:
    """Return a compressed sparse row tensor."""
    rows, columns = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2])
    return torch.sparse_csr_tensor(rows, columns, torch.ones(3), size=(3, 3))


def repack(original: bytes, *, method: int = zipfile.ZIP_STORED, **changes: bytes | None) -> bytes:
    """Return a zip archive with entries replaced, added or, for None, left out.

    Keys are entry names inside the archive's folder, with `__` for a slash and `_dot_` for a dot.
    """
    wanted = {key.replace("__", "/").replace("_dot_", "."): value for key, value in changes.items()}
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(original)) as source:
        folder = source.namelist()[0].split("/")[0]
        contents = {name.split("/", 1)[1]: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, data in {**contents, **wanted}.items():
            if data is not None:
                archive.writestr(f"{folder}/{name}", data)
    return target.getvalue()


def zip_bomb(num_bytes: int = 100_000_000) -> bytes:
    """Return a small .pt whose compressed entry unfolds to `num_bytes`."""
    original = torch_bytes({"w": torch.zeros(num_bytes // 4, dtype=torch.float32)})
    return repack(original, method=zipfile.ZIP_DEFLATED)


def write_hollow(path: Path, shapes: Mapping[str, Shape], metadata: Mapping[str, str]) -> Path:
    """Write a safetensors file of full size whose data is a hole on the disk."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, shape in shapes.items():
        size = 2
        for edge in shape:
            size *= edge
        header[name] = entry(list(shape), position, position + size, "F16")
        position += size
    content = safetensors_bytes(header)
    with path.open("wb") as handle:
        handle.write(content)
        handle.truncate(len(content) + position)
    return path


FAMILY_NAMES: dict[str, dict[str, Shape]] = {
    "LATTE_CLASS": {
        "pos_embed": (1, 256, 1152),
        "temp_embed": (1, 16, 1152),
        "x_embedder.proj.weight": (1152, 4, 2, 2),
        "blocks.0.attn.qkv.weight": (3456, 1152),
        "blocks.0.adaLN_modulation.1.weight": (6912, 1152),
        "blocks.1.attn.qkv.weight": (3456, 1152),
        "final_layer.linear.weight": (32, 1152),
    },
    "DIT": {
        "pos_embed": (1, 256, 1152),
        "x_embedder.proj.weight": (1152, 4, 2, 2),
        "y_embedder.embedding_table.weight": (1001, 1152),
        "blocks.0.attn.qkv.weight": (3456, 1152),
        "blocks.0.adaLN_modulation.1.weight": (6912, 1152),
    },
    "PIXART": {
        "adaln_single.linear.weight": (6912, 1152),
        "caption_projection.linear_1.weight": (1152, 4096),
        "transformer_blocks.0.attn1.to_q.weight": (1152, 1152),
        "transformer_blocks.0.attn2.to_q.weight": (1152, 1152),
        "proj_out.weight": (32, 1152),
    },
    "SD_UNET": {
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
        "model.diffusion_model.middle_block.0.in_layers.0.weight": (1280,),
        "first_stage_model.decoder.mid.block_1.conv1.weight": (512, 512, 3, 3),
        "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (3072, 768),
    },
    "SDXL_UNET": {
        "down_blocks.0.resnets.0.conv1.weight": (320, 320, 3, 3),
        "mid_block.resnets.0.conv1.weight": (1280, 1280, 3, 3),
        "time_embedding.linear_1.weight": (1280, 320),
        "add_embedding.linear_1.weight": (1280, 2816),
    },
    "FLUX": {
        "double_blocks.0.img_attn.qkv.weight": (9216, 3072),
        "single_blocks.0.linear1.weight": (21504, 3072),
    },
    "T5_ENCODER": t5_shapes(),
    "UMT5_ENCODER": {
        "shared.weight": (256384, 4096),
        "encoder.block.0.layer.0.SelfAttention.q.weight": (4096, 4096),
        "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight": (32, 64),
    },
    "CLIP": {
        "text_model.embeddings.token_embedding.weight": (49408, 768),
        "text_model.encoder.layers.0.self_attn.q_proj.weight": (768, 768),
    },
    "IMAGE_VAE": vae_layout(VaeConfig(is_temporal=False, **VAE_SIZES)),
    "TEMPORAL_VAE": vae_layout(VaeConfig(is_temporal=True, **VAE_SIZES)),
    "OTHER_VAE": {
        "decoder.conv_in.weight": (512, 16, 3, 3),
        "decoder.mid.block_1.conv1.weight": (512, 512, 3, 3),
    },
    "LORA": {
        "transformer.temporal_transformer_blocks.0.attn1.to_q.lora_A.weight": (4, 1152),
        "transformer.temporal_transformer_blocks.0.attn1.to_q.lora_B.weight": (1152, 4),
    },
    "WAN_VIDEO": {
        "patch_embedding.weight": (1536, 16, 1, 2, 2),
        "blocks.0.self_attn.q.weight": (1536, 1536),
        "head.modulation": (1, 2, 1536),
    },
    "LTX_VIDEO": {
        "patchify_proj.weight": (2048, 128),
        "adaln_single.linear.weight": (12288, 2048),
        "transformer_blocks.0.attn1.to_q.weight": (2048, 2048),
        "transformer_blocks.0.attn2.to_q.weight": (2048, 2048),
    },
    "OTHER_VIDEO": {
        "down_blocks.0.attentions.0.temporal_transformer_blocks.0.attn1.to_q.weight": (320, 320),
        "mid_block.resnets.0.spatial_res_block.conv1.weight": (1280, 1280, 3, 3),
        "time_embedding.linear_1.weight": (1280, 320),
    },
    "UNKNOWN": {"layer.weight": (8, 8)},
}
