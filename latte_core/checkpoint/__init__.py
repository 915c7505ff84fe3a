"""Reading, recognising, loading and writing weights."""

from __future__ import annotations

from .adapters import (
    drop_derived,
    is_svd_layout,
    temporal_vae_to_diffusers,
    temporal_vae_to_svd,
)
from .convert import Conversion, convert
from .detect import detect_t2v
from .detect_latte import detect_latte
from .dit_init import Initialization, initialize_from_dit
from .families import Family
from .identify import Identification, identify, require_family
from .loader import load_transformer
from .lora import LoraWeights, native_lora
from .names import Selection, select_model
from .quantized import dequantize
from .reader import read_header, read_tensors
from .records import FileHeader, FileKind, TensorFile, TensorInfo
from .sniff import sniff
from .verified import VerifiedFiles
from .writer import write_safetensors

__all__ = [
    "Conversion",
    "Family",
    "FileHeader",
    "FileKind",
    "Identification",
    "Initialization",
    "LoraWeights",
    "Selection",
    "TensorFile",
    "TensorInfo",
    "VerifiedFiles",
    "convert",
    "dequantize",
    "detect_latte",
    "detect_t2v",
    "drop_derived",
    "identify",
    "initialize_from_dit",
    "is_svd_layout",
    "load_transformer",
    "native_lora",
    "read_header",
    "read_tensors",
    "require_family",
    "select_model",
    "sniff",
    "temporal_vae_to_diffusers",
    "temporal_vae_to_svd",
    "write_safetensors",
]
