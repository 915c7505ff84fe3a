"""Checks that feed-forward layers work in parts where memory is short, and whole elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import comfy.model_management as management
import torch
from acceleration import accelerated
from compiled import compiled, report
from guidance import apart
from host import Stage, expect, expect_error, relative
from tiny import frames, given_for, load

ROWS = 37  # divides no number of tokens


def layers_of(model: Any) -> list[Any]:
    """Return the feed-forward layers of a MODEL."""
    modules = model.model.diffusion_model.modules()
    return [module for module in modules if getattr(module, "works_in_parts", False)]


@contextmanager
def pretending(stage: Stage, model: Any, free: float | None) -> Iterator[None]:
    """Pretend that so many bytes are free; expect that the layers are whole behind it."""
    real = management.get_free_memory

    def pretend(*given: Any, **named: Any) -> Any:
        return real(*given, **named) if free is None or len(given) > 1 or named else free

    with (
        patch.object(management, "get_free_memory", pretend),
        patch.object(stage.part("nodes.host.model.feed_forward_rows"), "FEED_FORWARD_ROWS", ROWS),
    ):
        yield
    rows = {layer.rows for layer in layers_of(model)}
    expect(rows == {None}, "the layers stayed in parts", rows)


@contextmanager
def watched(stage: Stage, model: Any, free: float | None) -> Iterator[list[int]]:
    """Gather also how many tokens the layers took at a time."""
    seen: list[int] = []

    def see(_: Any, given: tuple[torch.Tensor, ...]) -> None:
        seen.append(given[0].numel() // given[0].shape[-1])

    linears = [
        [one for one in layer.modules() if isinstance(one, torch.nn.Linear)][-1]
        for layer in layers_of(model)
    ]
    handles = [linear.register_forward_pre_hook(see) for linear in linears]
    try:
        with pretending(stage, model, free):
            yield seen
    finally:
        for handle in handles:
            handle.remove()


def check_feed_forward_is_parted_where_memory_is_short(stage: Stage) -> None:
    for run in (stage.ksampler, stage.latte_sampler):
        with apart():
            plain = run()
        with watched(stage, stage.model, None) as whole:
            expect(torch.equal(run(), run()))
        with watched(stage, stage.model, 1.0) as parts, apart():
            found = run()
        expect(min(whole) > ROWS, min(whole))
        expect(max(parts) == ROWS and len(parts) > len(whole), max(parts), len(parts))
        expect(relative(found, plain) < 1e-5, relative(found, plain))


def check_feed_forward_is_whole_from_what_a_call_needs(stage: Stage) -> None:
    needed = stage.model.model.memory_required([4, 4, 8, 8])
    for free, is_whole in ((needed * 1.01, True), (needed * 0.99, False)):
        with watched(stage, stage.model, free) as seen, apart():
            stage.latte_sampler()
        expect((max(seen) > ROWS) == is_whole, free, max(seen))


def check_feed_forward_in_parts_with_class_models_and_caches(stage: Stage) -> None:
    for variety in ("class", "parallel"):
        model, given = load(stage, variety), given_for(stage, variety)
        given = {**given, "latent_image": frames(stage), "steps": 6}
        for one in (model, accelerated(stage, model)):
            with apart():
                plain = stage.latte_sampler(one, **given)
            with watched(stage, one, 1.0) as seen, apart():
                found = stage.latte_sampler(one, **given)
            expect(max(seen) == ROWS, variety, max(seen))
            expect(relative(found, plain) < 1e-4, variety, relative(found, plain))


def check_feed_forward_in_parts_of_compiled_blocks(stage: Stage) -> None:
    model = compiled(stage)
    with apart():
        plain = stage.ksampler(model)
    first = report(stage, model)
    with pretending(stage, model, 1.0), apart():
        found = stage.ksampler(model)
    parted = report(stage, model)
    expect(parted.graphs > first.graphs, first, parted, "the blocks were not compiled in parts")
    expect((parted.failure, parted.eager_calls) == ("", 0), parted)
    expect(relative(found, plain) < 1e-4, relative(found, plain))
    with apart():
        expect(torch.equal(stage.ksampler(model), plain), "the whole blocks differ")
    expect(report(stage, model) == parted, report(stage, model), parted)


def check_feed_forward_is_whole_again_after_an_error(stage: Stage) -> None:
    def stop(*_: Any) -> None:
        raise RuntimeError("in the middle")

    handle = stage.model.model.diffusion_model.proj_out.register_forward_pre_hook(stop)
    try:
        with watched(stage, stage.model, 1.0) as seen:
            expect_error("RuntimeError", ["middle"], stage.latte_sampler)
        expect(max(seen) == ROWS, max(seen))
    finally:
        handle.remove()
