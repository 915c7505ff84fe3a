"""The ways to compute one denoiser step that `transformer.py` times: diffusers' class and ours.

All models of a case share the weights of diffusers' class, with random numbers in them. Ours is
handed what a run prepares once: projected text, tables of places, a single timestep, and the word
that both halves of the guided batch are the same. diffusers' class has no place for these.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from measuring.core import import_core
from torch import Tensor

LATTE_1: dict[str, Any] = {
    "num_layers": 28,
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "cross_attention_dim": 1152,
    "caption_channels": 4096,
    "in_channels": 4,
    "out_channels": 8,
    "patch_size": 2,
    "sample_size": 64,
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
}
VIDEOS = 2  # of a guided step: without and with the prompt
TIME = 500


@dataclass(frozen=True, kw_only=True)
class Case:
    """Sizes of a denoiser step.

    Args:
        layers: pairs of blocks.
        heads: of 72 channels each.
        frames: of each video.
        side: of the latents, in cells.
        tokens: of the text.
        text_width: of the text encoder.
    """

    layers: int
    heads: int
    frames: int
    side: int
    tokens: int
    text_width: int

    @property
    def name(self) -> str:
        """Describe it in a few words."""
        pixels = self.side * 8
        return f"{self.layers} layers, {self.frames}x{pixels}x{pixels}, L={self.tokens}"

    def config(self) -> dict[str, Any]:
        """Return Latte-1's config with these sizes."""
        return {
            **LATTE_1,
            "num_layers": self.layers,
            "num_attention_heads": self.heads,
            "cross_attention_dim": LATTE_1["attention_head_dim"] * self.heads,
            "caption_channels": self.text_width,
        }


class CountedBackend:
    """Inductor as a backend of torch.compile that counts the graphs it is given."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        """Count, and compile."""
        self.graphs += 1
        from torch._inductor.compile_fx import compile_fx

        return compile_fx(graph, inputs)


@dataclass
class Way:
    """One way to compute the step.

    Args:
        name: in the table.
        against: name of the way that it is compared with; empty for those.
        prepare: text (B, L, C) -> a call of the step.
        graphs: how many graphs were compiled so far.
        about: what else to report at the end.
    """

    name: str
    against: str
    prepare: Callable[[Tensor], Callable[[], Tensor]]
    graphs: Callable[[], int] = int
    about: Callable[[], str] = str


class Ways:
    """Models of one case on one device.

    Args:
        case: sizes.
        device, dtype: of everything.
        seed: of the weights and inputs.
    """

    def __init__(self, case: Case, device: str, dtype: torch.dtype, seed: int) -> None:
        self.case, self.device, self.dtype = case, device, dtype
        torch.manual_seed(seed)
        with torch.device(device):  # a large model is made there in a moment
            model: Any = self.new_model()
        self.theirs: Any = model.eval().to(device, dtype)
        one = torch.randn(1, 4, case.frames, case.side, case.side)
        self.latents = one.repeat(VIDEOS, 1, 1, 1, 1).to(device, dtype)

    def new_model(self) -> Any:
        """Return diffusers' class with random weights; ours where diffusers is missing."""
        try:
            import diffusers
        except ImportError:
            return import_core("model.t2v.transformer").LatteT2V.from_config(self.case.config())
        diffusers.utils.logging.set_verbosity_error()
        return diffusers.LatteTransformer3DModel(
            **self.case.config(), video_length=self.case.frames
        )

    def text(self, tokens: int, seed: int = 1) -> Tensor:
        """Return features of a pair of prompts, (B, L, C)."""
        draws = torch.Generator().manual_seed(seed)
        made = torch.randn(VIDEOS, tokens, self.case.text_width, generator=draws)
        return made.to(self.device, self.dtype)

    def diffusers(self, *, compiled: bool = False) -> Way:
        """diffusers' class as its pages call it: as it is, or compiled whole.

        Raises:
            ImportError: where diffusers is missing.
        """
        import diffusers  # noqa: F401

        backend, model = CountedBackend(), self.theirs
        if compiled:
            model = torch.compile(model, backend=backend, fullgraph=True)
        times = torch.full((VIDEOS,), TIME, device=self.device)

        def prepare(text: Tensor) -> Callable[[], Tensor]:
            return lambda: model(self.latents, times, text).sample[:, :4]

        name = "diffusers compiled" if compiled else "diffusers"
        return Way(name, "", prepare, graphs=lambda: backend.graphs)

    def ours(
        self,
        *,
        compiled: bool = False,
        fused: bool = False,
        kernels: bool = False,
        graphed: bool = False,
        precision: str | None = None,
    ) -> Way:
        """Our class with what a run prepares once.

        Args:
            compiled: blocks compiled, one graph for all layers.
            fused: queries, keys and values in one product.
            kernels: fused kernels where they are faster.
            graphed: replayed as a CUDA graph.
            precision: `int8` or `fp8` for wide layers in eight bits.
        """
        model: Any = import_core("model.t2v.transformer").LatteT2V.from_config(
            self.case.config(), device="meta"
        )
        model.load_state_dict(self.theirs.state_dict(), assign=True)
        model.eval()
        if fused:
            import_core("model.weights.fused_qkv").fuse_qkv(model)
        if precision is not None:
            import_core("pipelines.text.pipeline").Pipeline(model).set_precision(precision)
        if not kernels:
            choice = import_core("kernels.choice")
            model.kernels = choice.KernelSet(use=choice.KernelUse.NEVER)
        compiler = (
            import_core("acceleration.compilation").compile_model(model) if compiled else None
        )
        denoiser = import_core("acceleration.graphs").GraphedDenoiser(model) if graphed else model
        time_of_all = torch.full((1,), TIME, device=self.device)
        places = model.place_tables(tuple(self.latents.shape), self.device)

        def prepare(text: Tensor) -> Callable[[], Tensor]:
            options: dict[str, Any] = {
                "text": model.project_text(text),
                "places": places,
                "shared_input": True,
                "noise_only": True,
            }
            return lambda: denoiser(self.latents, time_of_all, **options)

        parts = {"fused QKV": fused, "kernels": kernels, "compiled": compiled, "graph": graphed}
        named = [*(part for part, is_on in parts.items() if is_on), *filter(None, [precision])]
        name = ", ".join(["ours", *named])

        def about() -> str:
            reports = [compiler.report().sentence()] if compiler is not None else []
            reports += [denoiser.report().sentence()] if graphed else []
            return " ".join(reports)

        graphs: Callable[[], int] = int if compiler is None else lambda: compiler.report().graphs
        against = "diffusers compiled" if compiled else "diffusers"
        return Way(name, against, prepare, graphs=graphs, about=about)


def figures(way: Way, times: dict[str, list[float]]) -> dict[str, Any]:
    """Return times of a way, and how many times faster it is than what it is compared with."""
    own = times[way.name]
    found: dict[str, Any] = {
        "seconds_min": round(min(own), 4),
        "seconds_median": round(statistics.median(own), 4),
    }
    if way.against and way.against in times:
        other = times[way.against]
        ratios = [theirs / ours for theirs, ours in zip(other, own, strict=True)]
        found |= {
            "against": way.against,
            "speed_up_median": round(statistics.median(ratios), 3),
            "speed_up_of_medians": round(statistics.median(other) / statistics.median(own), 3),
            "speed_up_of_minima": round(min(other) / min(own), 3),
        }
    return found
