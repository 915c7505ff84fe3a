"""Load a LatteT2V from a file or a folder, strictly (R11-R14)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import LatteT2VConfig
from ..errors import (
    CorruptCheckpointError,
    InvalidInputError,
    UnknownArchitectureError,
    WeightMismatchError,
)
from ..model.latte_t2v import LatteT2V
from .adapters import drop_derived
from .detect import (
    CONFIG_KEY,
    config_in,
    config_in_tensor,
    config_of,
    is_t2v_config,
    states_heads,
)
from .families import Family
from .folders import CONFIG_NAME, config_beside
from .identify import PIPELINE_NAME, identify_header, require_family
from .names import CONFIG_TENSOR, Selection, select_model
from .quantized import dequantize
from .reader import VerifiedFiles, read_header, read_tensors
from .records import FileHeader, TensorFile, shown

log = logging.getLogger("latte")

TRANSFORMER_FOLDER = "transformer"
COMPUTE_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
RELEASED = LatteT2VConfig()
SHOWN_NAMES = 5


def load_transformer(
    path: Path | str,
    config: Mapping[str, Any] | LatteT2VConfig | None = None,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
    *,
    operations: Any = torch.nn,
    verified: VerifiedFiles | None = None,
) -> LatteT2V:
    """Load a Latte text-to-video transformer in evaluation mode.

    Args:
        path: a .safetensors or .pt file, a transformer folder (shards too), or a folder of the
            whole model with `transformer/` inside.
        config: settings that win over the file's own and the config.json beside it; only what
            names and sizes cannot show is needed (heads, text width).
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
    if dtype is not None and dtype not in COMPUTE_TYPES:
        raise InvalidInputError(
            f"Latte cannot compute in {dtype}; choose float32, float16 or bfloat16."
        )
    path = transformer_path(Path(path))
    header = read_header(path)
    saved = CONFIG_TENSOR in chosen_names(header).names
    early = None if saved else settle_config(header, path, config)
    file = read_tensors(path, verified=verified)
    settled = early or settle_config(header, path, config, own=saved_config(file))
    weights = weights_of(file)
    chosen = dtype or common_type(file.name, weights)
    return build(file.name, settled, weights, chosen, torch.device(device), operations)


def transformer_path(path: Path) -> Path:
    """Return the folder or file that holds the transformer.

    Raises:
        UnknownArchitectureError: if `path` is the folder of another model.
    """
    inner = path / TRANSFORMER_FOLDER
    if (path / PIPELINE_NAME).is_file() and not inner.is_dir():
        require_family(path, Family.LATTE_T2V, "a text-to-video transformer")
    return inner if inner.is_dir() else path


def chosen_names(header: FileHeader) -> Selection:
    """Return the transformer's names inside a file.

    Raises:
        UnknownArchitectureError: if there is none, saying what the file is and what opens it.
    """
    selection = select_model(header.tensors)
    if selection is None:
        raise UnknownArchitectureError(
            f"{header.name} cannot be used as a text-to-video transformer. "
            f"{identify_header(header).sentence}"
        )
    return selection


def saved_config(file: TensorFile) -> Mapping[str, Any] | None:
    """Return the config that ComfyUI's "Save Model" kept among the tensors, or None."""
    name = chosen_names(file.header).names.get(CONFIG_TENSOR)
    return None if name is None else config_in_tensor(file.tensors[name])


def settle_config(
    header: FileHeader,
    path: Path,
    config: Mapping[str, Any] | LatteT2VConfig | None,
    *,
    own: Mapping[str, Any] | None = None,
) -> LatteT2VConfig:
    """Return the config: the caller's over the file's own, or over the config.json beside.

    Args:
        own: config found among the tensors.

    Raises:
        InvalidInputError: if the caller's `config` cannot be used.
        CheckpointError: if the file's, or the one beside it, cannot.
    """
    selection = chosen_names(header)
    shapes = {
        short: header.tensors[name]
        for short, name in selection.names.items()
        if short != CONFIG_TENSOR
    }
    beside = own
    if beside is None and CONFIG_KEY not in header.metadata:
        beside = usable_config(path)
    given = config.to_dict() if isinstance(config, LatteT2VConfig) else config
    joined = None if beside is None and given is None else {**(beside or {}), **(given or {})}
    try:
        settled = config_of(shapes, header.metadata, config=joined)
    except InvalidInputError as error:
        if beside is None or config is not None:
            raise
        place = f"in {header.name}" if own is not None else f"beside {header.name}"
        raise CorruptCheckpointError(f"The config {place} cannot be used: {error}") from error
    stated = {**(config_in(header.metadata) or {}), **(joined or {})}
    if not states_heads(stated) and settled.hidden_size != RELEASED.hidden_size:
        log.warning(
            "%s does not say how many attention heads it has; %d are assumed. "
            "If the result is wrong, put its config.json beside it.",
            header.name,
            settled.num_attention_heads,
        )
    return settled


def usable_config(path: Path) -> Mapping[str, Any] | None:
    """Return the config.json beside the weights unless it says that it is another model's."""
    values = config_beside(path)
    if values is not None and not is_t2v_config(values):
        log.warning(
            "The %s beside %s is for %s and is not used.",
            CONFIG_NAME,
            path.name,
            shown(str(values.get("_class_name"))),
        )
        return None
    return values


def weights_of(file: TensorFile) -> dict[str, Tensor]:
    """Return the transformer's weights under released names, fp8 unpacked, integers refused."""
    selection = chosen_names(file.header)
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
    for value in weights.values():
        counts[value.dtype] += value.numel()
    chosen = counts.most_common(1)[0][0]
    if len(counts) > 1:
        mixed = ", ".join(str(dtype) for dtype in counts)
        log.warning("%s mixes %s; all layers are loaded as %s.", name, mixed, chosen)
    return chosen


def build(
    name: str,
    config: LatteT2VConfig,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype,
    device: torch.device,
    operations: Any = torch.nn,
) -> LatteT2V:
    """Return the model with every parameter taken from `weights`.

    Raises:
        WeightMismatchError: with counts, the first five names of each kind, and the nearest size.
    """
    model = LatteT2V(config, operations=operations, dtype=dtype, device=torch.device("meta"))
    expected = model.state_dict()
    compare(name, config, weights, expected)
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
    config: LatteT2VConfig,
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
        f"{name} does not fit a Latte text-to-video transformer of {config.num_layers} layers, "
        f"width {config.hidden_size}, text width {config.caption_channels} ({len(expected)} "
        f"tensors expected, {len(weights)} found). {found} The nearest known size is Latte-1: "
        f"{RELEASED.num_layers} layers, width {RELEASED.hidden_size}, text width "
        f"{RELEASED.caption_channels}. Download the file again, or give its config.json."
    )
