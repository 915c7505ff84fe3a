"""Load a transformer from a file or a folder, strictly (R11-R14)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...config.t2v import LatteT2VConfig
from ...errors import InvalidInputError, WeightMismatchError
from ...meta_modules import WithoutNumbers
from ...model.t2v.transformer import LatteT2V
from ..reading.reader import read_header, read_tensors
from ..reading.records import TensorFile, shown
from ..reading.verified import VerifiedFiles
from ..recognition.architectures import ARCHITECTURES, T2V, Architecture, Config, Model
from ..recognition.detect_latte import TABLES
from ..recognition.families import Family
from ..recognition.identify import PIPELINE_NAME, TRANSFORMER_FOLDER, require_family
from ..recognition.names import CONFIG_TENSOR, Selection
from ..recognition.settle import found_in, saved_config, settle_config
from ..recognition.titles import nearest_size, sized_title
from .adapters import drop_derived
from .quantized import dequantize

log = logging.getLogger("latte")

COMPUTE_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
SHOWN_NAMES = 5


def load_transformer(
    path: Path | str,
    config: Mapping[str, Any] | Config | None = None,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
    *,
    operations: Any = torch.nn,
    verified: VerifiedFiles | None = None,
) -> Model:
    """Load a transformer in evaluation mode: a LatteT2V, or a Latte with or without classes.

    DiT's ImageNet weights load as a Latte whose blocks are all spatial.

    Args:
        path: a .safetensors or .pt file, a transformer folder (shards too), or a folder of the
            whole model with `transformer/` inside.
        config: settings that win over the file's own and the config.json beside it; only what
            names and sizes cannot show is needed (heads, text width, variant).
        dtype: of the layers; None takes the one most of the file's numbers have.
        device: where the weights go.
        operations: namespace the layers are made from.
        verified: files whose digest was checked before, see `VerifiedFiles`.

    Raises:
        UnknownArchitectureError: if it holds another model, naming the node that opens it.
        WeightMismatchError: if names, shapes or types differ from the model, or a config does.
        CheckpointError: for files that cannot be read; see `read_tensors`.
        InvalidInputError: for a `config` or `dtype` that cannot be used.
    """
    return load_one_of(
        ARCHITECTURES, path, config, operations, verified, dtype=dtype, device=device
    )


def load_t2v(
    path: Path | str,
    config: Mapping[str, Any] | LatteT2VConfig | None = None,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
) -> LatteT2V:
    """Load a text-to-video transformer and nothing else; see `load_transformer`."""
    model = load_one_of((T2V,), path, config, dtype=dtype, device=device)
    assert isinstance(model, LatteT2V)
    return model


def load_one_of(
    accepted: tuple[Architecture, ...],
    path: Path | str,
    config: Mapping[str, Any] | Config | None,
    operations: Any = torch.nn,
    verified: VerifiedFiles | None = None,
    *,
    dtype: torch.dtype | None,
    device: torch.device | str,
) -> Model:
    """Load a transformer if it is one of `accepted`; see `load_transformer`."""
    if dtype is not None and dtype not in COMPUTE_TYPES:
        raise InvalidInputError(
            f"Latte cannot compute in {dtype}; choose float32, float16 or bfloat16."
        )
    path = transformer_path(Path(path))
    header = read_header(path)
    found = found_in(header, accepted)
    architecture, selection = found
    is_saved = CONFIG_TENSOR in selection.names
    early = None if is_saved else settle_config(header, path, config, found)
    file = read_tensors(path, verified=verified)
    saved = saved_config(file, selection)
    settled = early or settle_config(header, path, config, found, saved=saved)
    weights = weights_of(file, selection)
    chosen = dtype or common_type(file.name, weights)
    with WithoutNumbers():
        model = architecture.make(settled, operations=operations, dtype=chosen, device="meta")
    return fill(file.name, model, weights, chosen, torch.device(device))


def transformer_path(path: Path) -> Path:
    """Return the folder or file that holds the transformer.

    Raises:
        UnknownArchitectureError: if `path` is the folder of another model.
    """
    inner = path / TRANSFORMER_FOLDER
    if (path / PIPELINE_NAME).is_file() and not inner.is_dir():
        require_family(path, Family.LATTE_T2V, "a text-to-video transformer")
    return inner if inner.is_dir() else path


def weights_of(file: TensorFile, selection: Selection) -> dict[str, Tensor]:
    """Return the transformer's weights under released names, fp8 unpacked, integers refused."""
    if selection.is_ema:
        log.info("%s: using the averaged (EMA) weights.", file.name)
    if selection.ignored:
        log.info("%s: %d tensors of other parts are not used.", file.name, len(selection.ignored))
    named = {
        short: file.tensors[name]
        for short, name in selection.names.items()
        if short != CONFIG_TENSOR
    }
    weights = drop_derived(dequantize(file.name, named, torch.float32))
    for key, value in weights.items():
        if not value.is_floating_point():
            raise WeightMismatchError(
                f"{file.name} cannot be loaded: tensor {shown(key)} holds {value.dtype}, not "
                "floating-point weights. Use an fp8, fp16, bf16 or fp32 copy."
            )
    return weights


def common_type(name: str, weights: Mapping[str, Tensor]) -> torch.dtype:
    """Return the type that most numbers have; a mix is logged."""
    counts: Counter[torch.dtype] = Counter()
    for key, value in weights.items():
        if key not in TABLES:  # float32 in every model
            counts[value.dtype] += value.numel()
    chosen = counts.most_common(1)[0][0]
    if len(counts) > 1:
        mixed = ", ".join(str(dtype) for dtype in counts)
        log.warning("%s mixes %s; all layers are loaded as %s.", name, mixed, chosen)
    return chosen


def fill(
    name: str,
    model: Model,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype,
    device: torch.device,
) -> Model:
    """Give a model on the meta device every parameter from `weights`, and return it.

    Raises:
        WeightMismatchError: with counts, the first five names of each kind, and the nearest size.
    """
    expected = model.state_dict()
    compare(name, model.config, weights, expected)
    types = {value.dtype for value in weights.values()}
    if types != {dtype}:
        mixed = ", ".join(sorted(str(item) for item in types))
        log.info("%s: weights stored as %s are loaded as %s.", name, mixed, dtype)
    ready = {
        key: weights[key].to(device=device, dtype=value.dtype) for key, value in expected.items()
    }
    model.load_state_dict(ready, strict=True, assign=True)
    for key, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.is_meta:
            raise WeightMismatchError(
                f"{name} left {key} without a value; this is a defect of ours."
            )
    return model.eval()


def compare(
    name: str,
    config: Config,
    weights: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
) -> None:
    """Refuse weights whose names or shapes differ from the model's."""
    missing = [key for key in expected if key not in weights]
    extra = [shown(key) for key in weights if key not in expected]
    other = [
        f"{key} is {tuple(weights[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in weights and weights[key].shape != value.shape
    ]
    if not missing and not extra and not other:
        return
    kinds = {"missing": missing, "not expected": extra, "of another shape": other}
    found = " ".join(
        f"{len(items)} {kind}: {', '.join(items[:SHOWN_NAMES])}{', ...' * (len(items) > 5)}."
        for kind, items in kinds.items()
        if items
    )
    raise WeightMismatchError(
        f"{name} does not fit {sized_title(config)} ({len(expected)} tensors expected, "
        f"{len(weights)} found). {found} The nearest known size is {nearest_size(config)}. "
        "Download the file again, or give its config.json."
    )
