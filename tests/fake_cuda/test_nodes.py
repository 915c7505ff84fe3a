"""ComfyUI's model classes on a card, with weights that are there or cast when they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from latte_fake_cuda import Card, fake_cuda
from latte_fake_cuda.counting import full_size
from latte_test_support.card_runs import distance
from latte_test_support.comfy.model import conditions, host_modules, joined
from latte_test_support.tiny.latte import tiny_latte, tiny_latte_config
from latte_test_support.tiny.t2v import tiny_config, tiny_model
from torch import Tensor

pytestmark = pytest.mark.fake_cuda
FRAMES, ROWS, COLUMNS = 3, 8, 6
CALLS = 3
NEAR = 1.05  # launches in ComfyUI over those of the core

Part = Callable[[str], Any]


@pytest.fixture(scope="module")
def part() -> Iterator[Part]:
    """What imports modules of `nodes.host` over a ComfyUI that is not there."""
    with host_modules() as imported:
        yield imported


def settings(config: dict[str, Any], kind: str, dtype: torch.dtype) -> dict[str, Any]:
    """Return the `unet_config` of a transformer."""
    known = {name: value for name, value in config.items() if not name.startswith("_")}
    return {**known, "image_model": kind, "dtype": dtype}


def text_model(part: Part) -> Any:
    """Return a small text-to-video model as ComfyUI's loader makes it."""
    config = settings(tiny_config(), "latte_t2v", torch.float32)
    made = part("model.t2v").LatteConfig(config).get_model({})
    made.diffusion_model.load_state_dict(tiny_model().state_dict())
    return made


def class_model(part: Part, variant: int) -> Any:
    """Return a small class model as ComfyUI's loader makes it."""
    config = settings(tiny_latte_config(variant=variant), "latte", torch.float32)
    made = part("model.latte").LatteClassConfig(config).get_model({})
    made.diffusion_model.load_state_dict(tiny_latte(variant=variant).state_dict())
    return made


def kinds_of(model: Any, device: str) -> list[dict[str, Any]]:
    """Return two conditionings as the host hands them to a model, the negative one first."""
    common = {"device": torch.device(device)}
    width = getattr(model.diffusion_model.config, "caption_channels", None)
    if width is None:
        return [{**common, "latte_class": label} for label in ("any class", 2)]
    generator = torch.Generator().manual_seed(1)
    texts = (torch.randn(1, 5, width, generator=generator) for _ in range(2))
    return [{**common, "cross_attn": text.to(device)} for text in texts]


@torch.no_grad()
def run(model: Any, device: str, card: Card | None = None) -> list[Tensor]:
    """Return the predictions of a few guided calls of one run."""
    parts = conditions(model, kinds_of(model, device), FRAMES)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(FRAMES, 4, ROWS, COLUMNS, generator=generator)
    x, made = start.repeat(2, 1, 1, 1).to(device), []
    times = torch.linspace(900, 100, CALLS).to(device)
    for call in range(CALLS):
        options = {"cond_or_uncond": [1, 0]}
        time = times[call].expand(len(x))
        made.append(model.apply_model(x, time, **joined(parts), transformer_options=options))
        if card is not None:
            card.next_step()
    return made


def models(part: Part) -> dict[str, Callable[[], Any]]:
    """Return what makes each kind of model."""
    classes = {f"variant {n}": lambda n=n: class_model(part, n) for n in (1, 2, 3, 4)}
    return {"text": lambda: text_model(part), **classes}


KINDS = ("text", "variant 1", "variant 2", "variant 3", "variant 4")


@pytest.mark.parametrize("is_cast", [False, True], ids=["weights there", "weights cast"])
@pytest.mark.parametrize("kind", KINDS)
def test_model_predicts_on_the_card_what_it_does_on_the_cpu(
    part: Part, kind: str, is_cast: bool
) -> None:
    expected = run(models(part)[kind](), "cpu")
    with fake_cuda():
        model = models(part)[kind]()
        model.diffusion_model.kernels.use = off(model)
        found = run(model if is_cast else model.to("cuda"), "cuda")
        for one, other in zip(found, expected, strict=True):
            assert one.is_cuda
            assert distance(one, other) < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_call_of_a_run_neither_copies_nor_waits(part: Part, kind: str) -> None:
    with fake_cuda() as card:
        model = models(part)[kind]().to("cuda")
        model.diffusion_model.kernels.use = off(model)
        run(model, "cuda", card)
    rows = card.step_table()[1:-1]
    assert len(rows) == CALLS - 1
    assert [row.pageable_copies for row in rows] == [0] * len(rows), card.report()
    assert [row.read_backs for row in rows] == [0] * len(rows), card.report()


def off(model: Any) -> Any:
    """Return the choice of torch's own operators."""
    return type(model.diffusion_model.kernels.use).NEVER


@pytest.mark.parametrize("with_kernels", [False, True], ids=["torch", "kernels"])
def test_call_of_full_size_launches_what_the_core_does(part: Part, with_kernels: bool) -> None:
    found = full_size()
    core = found.count_ours(20, kernels=with_kernels).counts()
    config = settings(found.LATTE_1, "latte_t2v", found.DTYPE)
    with torch.device("meta"):
        model = part("model.t2v").LatteConfig(config).get_model({})
    with fake_cuda(meta=True) as card:
        model.to("cuda")
        kernels = model.diffusion_model.kernels
        kernels.use = type(kernels.use)["ALWAYS" if with_kernels else "NEVER"]
        texts = [torch.empty(1, 20, found.TEXT_WIDTH, dtype=found.DTYPE) for _ in range(2)]
        told = [{"device": torch.device("cuda"), "cross_attn": one.to("cuda")} for one in texts]
        parts = conditions(model, told, found.FRAMES)
        size = (2 * found.FRAMES, 4, found.CELLS, found.CELLS)
        x = torch.empty(size, dtype=found.DTYPE, device="cuda")
        times = torch.zeros(len(x), device="cuda")
        counts = []
        for _ in range(2):  # what a run prepares is made in its first call
            before = card.counter.counts().launches
            with torch.no_grad():
                model.apply_model(
                    x, times, **joined(parts), transformer_options={"cond_or_uncond": [1, 0]}
                )
            counts.append(card.counter.counts().launches - before)
    assert counts[1] <= NEAR * core.launches, (counts, core)
