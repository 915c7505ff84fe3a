"""Pipelines with fused kernels on a card that is not there, in a process of their own.

    TRITON_INTERPRET=1 python tests/support/kernels/card.py TEXT-FOLDER CLASS-FOLDER

Triton asks for its interpreter when it is imported. The process prints JSON: for each case how far
the latents are from those of torch's operators, which kernels ran, and what whole steps did.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
STEPS = 3


def make(kind: str, folder: Path, use: str, **options: Any) -> tuple[Any, Any]:
    """Return the latents of a run and the card.

    Args:
        kind: text or class.
        folder: of the model.
        use: of the kernels: never, always or auto.
        options: `precision`, and `is_graphed` for CUDA graphs.
    """
    import torch
    from latte_fake_cuda import fake_cuda
    from latte_test_support.tiny.pipeline import PROMPT, SMALL

    from latte_core.kernels.choice import KernelSet, KernelUse
    from latte_core.pipelines.classes.pipeline import ClassPipeline
    from latte_core.pipelines.text.pipeline import Pipeline

    with fake_cuda() as card:
        opener: Any = Pipeline if kind == "text" else ClassPipeline
        pipeline = opener.from_pretrained(
            folder,
            device="cuda",
            dtype=torch.float32,
            memory="24",
            precision=options.get("precision"),
        )
        pipeline.parts.transformer.kernels = KernelSet(KernelUse(use))
        if options.get("is_graphed"):
            pipeline.use_cuda_graph()
        common = {"output": "latents", "callback": card.next_step}
        if kind == "text":
            made = pipeline(PROMPT, **{**SMALL, "num_steps": STEPS}, **common)
        else:
            made = pipeline(2, steps=str(STEPS), **common)
        return made.latents.cpu(), card


@cache
def make_plain(kind: str, folder: Path, precision: str | None) -> Any:
    """Return the latents of a run with torch's operators."""
    return make(kind, folder, "never", precision=precision)[0]


def measure(kind: str, folder: Path, use: str, **options: Any) -> dict[str, Any]:
    """Return what a run with kernels did, and how far it is from one without."""
    plain = make_plain(kind, folder, options.get("precision"))
    found, card = make(kind, folder, use, **options)
    counted = dict(card.counter.launches)
    return {
        "distance": float((found - plain).abs().max() / plain.abs().max()),
        "kernels": sorted(name for name in counted if name in LATTE),
        "steps": [asdict(row) for row in card.step_table()[1:-1]],
        "report": card.report(),
    }


def operators() -> set[str]:
    """Return the names of the pack's own operators."""
    import torch

    import latte_core.kernels.choice  # noqa: F401  registers them

    names = torch._C._dispatch_get_all_op_names()
    return {name.partition("::")[2].partition(".")[0] for name in names if "latte::" in name}


def main(text: Path, classes: Path) -> None:
    """Measure every case and print it."""
    import latte_core.precision.trial as trial

    trial.TOKENS = 256  # an interpreter takes minutes for what fills a card
    cases: dict[str, dict[str, Any]] = {
        "text": measure("text", text, "always"),
        "text, graph": measure("text", text, "always", is_graphed=True),
        "text, chosen": measure("text", text, "auto"),
        "text, int8": measure("text", text, "always", precision="int8"),
        "class": measure("class", classes, "always"),
    }
    sys.stdout.write(json.dumps(cases))


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "fake_cuda")]
    import tool

    import support

    sys.modules["latte_test_support"] = support
    sys.modules["latte_fake_cuda"] = tool
    LATTE = operators()
    main(Path(sys.argv[1]), Path(sys.argv[2]))
