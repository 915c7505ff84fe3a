"""How large the models are: Latte-1's own size on a card, a few numbers of each in a rehearsal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

T5_XXL = {"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "num_layers": 24}
T5_TINY = {"d_model": 64, "d_ff": 96, "d_kv": 32, "num_heads": 2, "num_layers": 2}
FULL_VAE = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes and numbers of everything that is measured; the defaults are those for a card.

    Args:
        name: of the set.
        layers, heads: of the text model, heads of 72 channels.
        side: of its latents, in cells.
        frames: of a video.
        tokens: of a prompt.
        text: what T5's config has beside the starter's.
        words: in its table.
        vae: what the VAEs' configs have beside the starter's.
        dtypes: that a step is measured in, the first being the one that all else runs in.
        rounds: how often each way is timed.
        steps: of a run.
        few_steps: of a run whose speed does not matter.
        sampler_steps: of a run of a sampler.
        samplers: how many of each starter are run; None is all.
        matrix: edge of the matrices of the roofline; of copies, bytes are the square times 16.
        long_clip: frames of the long clip that is decoded.
        class_depth, class_hidden, class_side: of the class model.
        training_sides: of the latents of a training step, in cells, with clips of each.
        needs_share: of the seconds that sections reckon with.
        patience: how many times the most that a section may take it may take here.
        threads: of the CPU; None leaves it to torch.
        compiles: whether torch.compile does anything; else its calls are made, and run as they are.
        tests: paths to look for GPU tests in.
        test_marker: which of them are run.
    """

    name: str = "full"
    layers: int = 28
    heads: int = 16
    side: int = 64
    frames: int = 16
    tokens: int = 120
    text: dict[str, Any] = field(default_factory=lambda: dict(T5_XXL))
    words: int = 32128
    vae: dict[str, Any] = field(default_factory=lambda: dict(FULL_VAE))
    dtypes: tuple[str, ...] = ("bfloat16", "float16")
    rounds: int = 8
    steps: int = 50
    few_steps: int = 10
    sampler_steps: int = 14
    samplers: int | None = None
    matrix: int = 8192
    long_clip: int = 64
    class_depth: int = 28
    class_hidden: int = 1152
    class_side: int = 32
    training_sides: tuple[tuple[int, int], ...] = ((32, 4), (64, 1))
    needs_share: float = 1.0
    patience: float = 1.0
    threads: int | None = None
    compiles: bool = True
    tests: tuple[str, ...] = ("tests",)
    test_marker: str = "gpu"

    @property
    def text_width(self) -> int:
        """Features of a token."""
        return int(self.text["d_model"])


FULL = Sizes()
REHEARSAL = Sizes(
    name="rehearsal",
    layers=2,
    heads=2,
    side=8,
    frames=4,
    tokens=6,
    text=dict(T5_TINY),
    words=256,
    vae={},
    dtypes=("float32", "bfloat16"),
    rounds=2,
    steps=5,
    few_steps=3,
    sampler_steps=4,
    matrix=64,
    long_clip=18,
    class_depth=2,
    class_hidden=96,
    class_side=8,
    training_sides=((8, 2), (16, 1)),
    needs_share=0.1,
    patience=5.0,
    threads=1,  # tiny models only wait for each other's threads
    # one that every machine can run, of the kernels in Triton's interpreter
    tests=("tests/core/acceleration/test_graphs.py",),
    test_marker="not slow",
)
SHORT = Sizes(
    **{
        **vars(REHEARSAL),
        "name": "short rehearsal",
        "dtypes": ("float32",),
        "rounds": 1,
        "steps": 4,
        "few_steps": 2,
        "samplers": 2,
        "tests": ("tests/test_locales.py",),
        "training_sides": ((8, 1),),
        "compiles": False,
    }
)
