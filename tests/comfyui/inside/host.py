"""Start ComfyUI's modules and this pack in one process, as ComfyUI would, without a server.

Runs under ComfyUI's interpreter with the checkout as working folder; pytest never imports it.
Arguments: the pack, a base folder, the folder of a starter model, then names of checks (or none).
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

PACK, BASE, STARTER = (Path(argument) for argument in sys.argv[1:4])
ONLY = sys.argv[4:]
sys.argv = [sys.argv[0], "--cpu", "--base-directory", str(BASE), "--disable-metadata"]
sys.path.insert(0, str(Path.cwd()))

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import torch  # noqa: E402

torch.set_num_threads(1)
FOLDERS = ("input", "output", "temp", "models/loras", "models/diffusion_models")
FOLDERS += (
    "models/unet",
    "models/checkpoints",
    "models/text_encoders",
    "models/vae",
    "models/diffusers",
)
Check = Callable[["Stage"], Any]


def start_comfy() -> ModuleType:
    """Return ComfyUI's `nodes` module with its extra nodes loaded, and nobody listening."""
    import utils.extra_config  # noqa: F401 -- before nodes.py puts comfy/utils.py in front of it

    for name in FOLDERS:
        (BASE / name).mkdir(parents=True, exist_ok=True)
    import server

    import nodes

    server.PromptServer.instance = MagicMock(client_id=None)
    asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    return nodes


def load_pack() -> ModuleType:
    """Import the pack under its folder path, dots replaced, as ComfyUI does."""
    name = str(PACK).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, PACK / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class Stage:
    """What the checks share: stock and own nodes, the starter's parts, a pair of prompts."""

    def __init__(self) -> None:
        self.stock = start_comfy().NODE_CLASS_MAPPINGS
        self.pack = load_pack()
        self.own = self.pack.NODE_CLASS_MAPPINGS
        self.part("nodes.host.base.paths").STARTER_FOLDER = STARTER
        self.model = self.call("LatteModelLoader", model_name="starter", weight_dtype="fp32")[0]
        self.clip = self.call("LatteTextEncoderLoader", encoder_name="starter", device="default")[0]
        self.vae = self.call("LatteVAELoader", vae_name="starter", kind="temporal")[0]
        self.positive, self.negative = self.prompts("a blue square moving up", "red")

    def part(self, name: str) -> ModuleType:
        """Return a module of the pack."""
        return importlib.import_module(f"{self.pack.__name__}.{name}")

    def prompts(self, prompt: str, negative: str = "") -> tuple[Any, Any]:
        """Encode a pair with Latte Text Encode."""
        given = {"clean_caption": False, "mask_feature": True}
        out = self.call(
            "LatteTextEncode", clip=self.clip, prompt=prompt, negative_prompt=negative, **given
        )
        return out[0], out[1]

    def call(self, node: str, **inputs: Any) -> tuple[Any, ...]:
        """Run a node of either API by its id."""
        cls = self.own.get(node) or self.stock[node]
        if hasattr(cls, "define_schema"):
            return tuple(cls.execute(**inputs).args)
        return getattr(cls(), cls.FUNCTION)(**inputs)

    def latent(self, frames: int = 4, height: int = 64, width: int = 64) -> dict[str, Any]:
        """Make an empty latent."""
        return self.call("LatteEmptyLatent", width=width, height=height, frames=frames)[0]

    def ksampler(self, model: Any = None, **changes: Any) -> torch.Tensor:
        """Run stock KSampler for a few steps."""
        inputs = {
            "model": model or self.model,
            "seed": 7,
            "steps": 3,
            "cfg": 4.0,
            "sampler_name": "euler",
            "scheduler": "normal",
            "positive": self.positive,
            "negative": self.negative,
            "latent_image": self.latent(),
            "denoise": 1.0,
        }
        return self.call("KSampler", **{**inputs, **changes})[0]["samples"]

    def latte_sampler(self, model: Any = None, **changes: Any) -> torch.Tensor:
        """Run Latte Sampler for a few steps."""
        inputs = {
            "model": model or self.model,
            "positive": self.positive,
            "negative": self.negative,
            "latent_image": self.latent(),
            "seed": 7,
            "steps": 3,
            "cfg": 4.0,
            "denoise": 1.0,
            "eta": 0.0,
        }
        return self.call("LatteSampler", **{**inputs, **changes})[0]["samples"]

    def noise_of(self, x: torch.Tensor, context: torch.Tensor, conds: int = 1) -> torch.Tensor:
        """Call the diffusion model once at timestep 500."""
        steps = torch.full((x.shape[0],), 500.0)
        options = {"cond_or_uncond": list(range(conds))}
        return self.model.model.diffusion_model(
            x, steps, context=context, transformer_options=options
        )


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the largest difference over the largest value of `b`."""
    return float((a - b).abs().max() / b.abs().max())


def expect(condition: bool, *facts: Any) -> None:
    """Fail with what was found."""
    if not condition:
        raise AssertionError(", ".join(map(str, facts)) or "it does not hold")


def expect_error(name: str, words: list[str], call: Callable[[], Any]) -> str:
    """Expect an error of a class whose message holds all words; return the message."""
    try:
        call()
    except BaseException as error:  # noqa: BLE001 -- compared by name below
        expect(type(error).__name__ == name, type(error).__name__, error)
        missing = [word for word in words if word not in str(error)]
        expect(not missing, f"{missing} is missing in: {error}")
        return str(error)
    raise AssertionError(f"nothing was raised; expected {name}")


def windows(stage: Stage, model: Any, length: int, overlap: int, *, is_causal: bool = False) -> Any:
    """Put ComfyUI's static context windows on a model."""
    known = {item.id for item in stage.stock["ContextWindowsManual"].define_schema().inputs}
    inputs = {
        "context_length": length,
        "context_overlap": overlap,
        "context_stride": 1,
        "dim": 0,
        "context_schedule": "standard_static",
        "fuse_method": "pyramid",
        "closed_loop": False,
        "freenoise": False,
        "cond_retain_index_list": "",
        "split_conds_to_windows": False,
        "causal_window_fix": is_causal,  # shows a window the frame before it
    }
    inputs = {key: value for key, value in inputs.items() if key in known}
    return stage.call("ContextWindowsManual", model=model, **inputs)[0]


def run(namespace: dict[str, Any]) -> None:
    """Run every function whose name starts with `check_` and print one JSON line for each."""
    logging.getLogger().setLevel(logging.ERROR)
    checks = {name: value for name, value in namespace.items() if name.startswith("check_")}
    with torch.inference_mode():
        stage = Stage()
    for name, check in checks.items():
        if ONLY and name not in ONLY:
            continue
        start = time.monotonic()
        try:
            with torch.inference_mode():
                outcome = {"name": name, "ok": True, "value": check(stage)}
        except BaseException:  # noqa: BLE001 -- reported, and asserted by the test
            outcome = {"name": name, "ok": False, "value": traceback.format_exc()}
        outcome["seconds"] = round(time.monotonic() - start, 2)
        print("RESULT " + json.dumps(outcome, default=str), flush=True)  # noqa: T201
