"""Reading, recognising, loading and writing weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import listing, names_from

if TYPE_CHECKING:
    from .conversion.convert import Conversion, convert
    from .conversion.dit_init import Initialization, initialize_from_dit
    from .loading.adapters import (
        drop_derived,
        is_svd_layout,
        temporal_vae_to_diffusers,
        temporal_vae_to_svd,
    )
    from .loading.loader import load_transformer
    from .loading.quantized import dequantize
    from .lora.layouts import LoraWeights, native_lora
    from .reading.reader import read_header, read_tensors
    from .reading.records import FileHeader, FileKind, TensorFile, TensorInfo
    from .reading.sniff import sniff
    from .reading.verified import VerifiedFiles
    from .recognition.detect import detect_t2v
    from .recognition.detect_latte import detect_latte
    from .recognition.families import Family
    from .recognition.identify import Identification, identify, require_family
    from .recognition.names import Selection, select_model
    from .writing.writer import write_safetensors

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

__dir__ = listing(__name__, __all__)
__getattr__ = names_from(
    __name__,
    {
        "conversion.convert": ("Conversion", "convert"),
        "conversion.dit_init": ("Initialization", "initialize_from_dit"),
        "loading.adapters": (
            "drop_derived",
            "is_svd_layout",
            "temporal_vae_to_diffusers",
            "temporal_vae_to_svd",
        ),
        "loading.loader": ("load_transformer",),
        "loading.quantized": ("dequantize",),
        "lora.layouts": ("LoraWeights", "native_lora"),
        "reading.reader": ("read_header", "read_tensors"),
        "reading.records": ("FileHeader", "FileKind", "TensorFile", "TensorInfo"),
        "reading.sniff": ("sniff",),
        "reading.verified": ("VerifiedFiles",),
        "recognition.detect": ("detect_t2v",),
        "recognition.detect_latte": ("detect_latte",),
        "recognition.families": ("Family",),
        "recognition.identify": ("Identification", "identify", "require_family"),
        "recognition.names": ("Selection", "select_model"),
        "writing.writer": ("write_safetensors",),
    },
)
