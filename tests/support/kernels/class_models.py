"""Class models with fused kernels beside torch's operators, measured in a process of its own.

    [TRITON_INTERPRET=1] python tests/support/kernels/class_models.py DEVICE

The process prints JSON: for each case and type how far both ways are apart, the errors of both
against float64, and how often the kernels were called. See `operators.py`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[3]
HEAD = 72  # of Latte's heads: no power of two
FRAMES = 3
CLASSES: dict[str, dict[str, Any]] = {
    "class": {},
    "unconditional": {"conditioning": "none", "num_classes": 0},
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model and one way of calling it.

    Args:
        changes: to the config of a tiny Latte with heads of 72 channels.
        batch: videos.
        options: of the call.
    """

    changes: dict[str, Any] = field(default_factory=dict)
    batch: int = 2
    options: dict[str, Any] = field(default_factory=dict)


def cases() -> dict[str, Case]:
    """Return what is measured, by name."""
    from latte_core.model.attention import BlockHooks, scaled_dot_product

    def call_block(_: int, block: Any, *given: Tensor) -> Tensor:
        return block(*given)

    def attend(*given: Any, **about: Any) -> Tensor:
        return scaled_dot_product(*given, **about)

    found = {
        f"variant {variant}, {kind}": Case(changes={"variant": variant, **CLASSES[kind]})
        for variant, kind in product((1, 2, 3, 4), CLASSES)
    }
    found |= {f"variant {n}, one video": Case(changes={"variant": n}, batch=1) for n in (1, 4)}
    labels = {"num_images": 2, "image_labels": torch.tensor([[0, 1], [2, 3]])}
    return found | {
        "image model": Case(changes={"has_temporal": False, "num_frames": 1}),
        "no temporal attention": Case(options={"enable_temporal_attention": False}),
        "hook around blocks": Case(options={"hooks": BlockHooks(run_block=call_block)}),
        "attention of a host": Case(options={"hooks": BlockHooks(attention=attend)}),
        "rotary": Case(changes={"temporal_positions": "rotary"}),
        "tokens": Case(changes={"injection": "tokens"}),
        "clip with images": Case(options={"num_images": 2}),
        "images with labels": Case(options=labels),
    }


def model_of(case: Case) -> Any:
    """Return a small Latte whose weights are values that bfloat16 can hold."""
    from latte_test_support.latte_cases import even_latte

    is_parallel = case.changes.get("variant") == 4  # half as many heads, twice as wide
    sizes = {"hidden_size": 2 * HEAD, "num_heads": 4 if is_parallel else 2, "num_frames": FRAMES}
    model = even_latte(**{**sizes, **case.changes})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    return model


def measure(case: Case, device: str) -> dict[str, Any]:
    """Return the errors of a model with and without kernels, and what it called with them."""
    from latte_core.kernels.choice import KernelSet, KernelUse
    from support.kernels.operators import both_ways, random

    model = model_of(case)
    latents = random(case.batch, 4, FRAMES, 4, 6).bfloat16()
    given: dict[str, Any] = {"timesteps": torch.tensor([500.0, 90.0])[: case.batch].to(device)}
    if model.config.conditioning == "class":
        given["class_labels"] = torch.tensor([2, 5])[: case.batch]

    def run(use: KernelUse, dtype: torch.dtype) -> Tensor:
        model.to(device, dtype).kernels = KernelSet(use)
        with torch.no_grad():
            return model(latents.to(device, dtype), **given, **case.options)

    return both_ways(run)


def main(device: str) -> None:
    """Measure everything and print it."""
    sys.stdout.write(json.dumps({name: measure(case, device) for name, case in cases().items()}))


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import support

    sys.modules["latte_test_support"] = support
    main(sys.argv[1])
