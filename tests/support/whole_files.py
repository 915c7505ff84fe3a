"""Small whole files of weights in each format, to be opened or injured."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from .malformed import small_safetensors, torch_bytes
from .tiny.t2v import tiny_config

WEIGHTS = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


def whole_file(form: str) -> bytes:
    """Return a small whole file of one of the three formats."""
    if form == "safetensors":
        return small_safetensors({"config": json.dumps(tiny_config()), "format": "pt"})
    return torch_bytes({"model": WEIGHTS, "step": 3}, is_zip=form == "zip")


def put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path
