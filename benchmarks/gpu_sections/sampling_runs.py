"""Whole runs of the text model at full size, from noise to latents, by cache and bits.

A run has many steps, so it is timed once. Weights are random, so how like its video is to that of
an exact run is asked of the starter.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch
from measuring.core import import_core
from torch import Tensor
from ways.transformer import Ways

from gpu_sections.session import Found, Session

PLAIN = "diffusers"
SCALE = 7.5
DIAL = ("quality", "balanced", "fast")
LIKENESS = 35.0  # dB on the starter, below which a way is not called the best
STARTER_PROMPTS = ("a red circle moving left", "a blue square moving up")


class Runs:
    """Sampling from noise to latents with the weights of a case.

    Args:
        session: has the sizes.
        models: whose weights are used.
    """

    def __init__(self, session: Session, models: Ways) -> None:
        self._session, self._models = session, models
        draws = torch.Generator().manual_seed(3)
        self._noise = torch.randn(tuple(models.latents[:1].shape), generator=draws)
        self._text = models.text(models.case.tokens)

    def theirs(self, *, compiled: bool = False) -> float:
        """Return the seconds of diffusers' class under its own scheduler."""
        import diffusers

        scheduler = diffusers.DDIMScheduler(
            beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False
        )
        scheduler.set_timesteps(self._session.sizes.steps, device=self._session.card.device)
        model: Any = self._models.theirs
        if compiled:
            model = torch.compile(model, fullgraph=True)

        def sample() -> Tensor:
            latents = self._noise.to(self._models.device, self._models.dtype)
            for time in scheduler.timesteps:
                pair = latents.repeat(2, 1, 1, 1, 1)
                noise = model(pair, time.expand(2), self._text).sample[:, :4]
                negative, positive = noise.chunk(2)
                guided = negative + SCALE * (positive - negative)
                latents = scheduler.step(guided, time, latents, return_dict=False)[0]
            return latents

        return self._session.card.wall(sample)[1]

    def pipeline(self, precision: str | None, *, compiled: bool = False) -> Any:
        """Return our pipeline on the same weights."""
        case = self._models.case
        model: Any = import_core("model.t2v.transformer").LatteT2V.from_config(
            case.config(), device="meta"
        )
        model.load_state_dict(self._models.theirs.state_dict(), assign=True)
        pipeline = import_core("pipelines.text.pipeline").Pipeline(model.eval())
        pipeline.fuse_qkv()
        pipeline.set_precision(precision)
        if compiled:
            pipeline.compile()
        return pipeline

    def ours(self, pipeline: Any, cache: str | None, steps: int | None = None) -> Tensor:
        """Return the latents of a run."""
        settings = import_core("acceleration.settings")
        made = pipeline(
            None,
            prompt_embeds=self._text[1:].float().cpu(),
            negative_embeds=self._text[:1].float().cpu(),
            latents=self._noise,
            num_frames=self._noise.shape[2],
            num_steps=steps or self._session.sizes.steps,
            guidance_scale=SCALE,
            cache=None if cache is None else settings.parse_cache(cache),
            output="latents",
        )
        return made.latents


def measure_runs(session: Session, models: Ways, into: Found, eight_bits: str | None) -> None:
    """Time runs by cache and bits, with their likeness on the starter beside them."""
    runs = Runs(session, models)
    with torch.no_grad():
        session.attempt(into, PLAIN, lambda: {"seconds": round(runs.theirs(), 3)})
    likeness: Found = {}
    into["likeness_on_the_starter"] = likeness
    choices = [None] if eight_bits is None else [None, eight_bits]
    session.attempt(into, "likeness", lambda: measure_likeness(session, choices, likeness))
    exact: dict[str, Tensor] = {}
    for precision in choices:
        time_runs(session, runs, into, precision, exact)
    tell_stacked(session, into)


def time_runs(
    session: Session,
    runs: Runs,
    into: Found,
    precision: str | None,
    exact: dict[str, Tensor],
    *,
    compiled: bool = False,
) -> None:
    """Time the runs of one pipeline without a cache and with each of the dial's.

    Args:
        into: gets the facts by the name of a run.
        precision: of the pipeline.
        exact: keeps the latents that all others are compared with.
        compiled: whether its blocks are.
    """
    name = name_of(precision, None, compiled)
    pipeline = session.attempt({}, name, lambda: runs.pipeline(precision, compiled=compiled))
    if pipeline is None:
        into[name] = {"error": "the pipeline could not be made"}
        return
    psnr = import_core("pipelines.calibration.calibration").psnr
    for cache in (None, *DIAL):

        def timed(cache: str | None = cache) -> Found:
            if cache is None:  # what is chosen, built or compiled once is not timed
                runs.ours(pipeline, None, steps=1)
            latents, seconds = session.card.wall(lambda: runs.ours(pipeline, cache))
            first = exact.setdefault("latents", latents)
            low, high = first.aminmax()
            span = (high - low).clamp(min=1e-6)
            decibels = psnr((latents - low) / span, (first - low) / span)
            return {"seconds": round(seconds, 3), "psnr_of_latents": round(decibels, 2)}

        session.attempt(into, name_of(precision, cache, compiled), timed)


def name_of(precision: str | None, cache: str | None, compiled: bool) -> str:
    """Return what a run is called."""
    parts = ["ours", precision or "", cache and f"cache {cache}", "compiled" if compiled else ""]
    return ", ".join(part for part in parts if part)


def measure_likeness(session: Session, choices: Sequence[str | None], into: Found) -> int:
    """Write PSNR of the starter's frames by cache and bits; return how many were compared."""
    pipeline_class, settings = (
        import_core("pipelines.text.pipeline").Pipeline,
        import_core("acceleration.settings"),
    )
    psnr = import_core("pipelines.calibration.calibration").psnr
    exact: dict[str, Tensor] = {}
    for precision in choices:
        pipeline = pipeline_class.from_pretrained(
            "starter", device=session.card.device, precision=precision
        )
        for cache in (None, *DIAL):
            values: list[float] = []
            for prompt in STARTER_PROMPTS:
                made = pipeline(
                    prompt,
                    num_steps=session.sizes.steps,
                    guidance_scale=pipeline.defaults.guidance_scale,
                    cache=None if cache is None else settings.parse_cache(cache),
                )
                values.append(psnr(made.frames, exact.setdefault(prompt, made.frames)))
            into[name_of(precision, cache, False)] = round(statistics.mean(values), 2)
    return len(into)


def tell_stacked(session: Session, runs: Found) -> None:
    """Write down the fastest run whose likeness is good enough, of all that were timed so far."""
    likeness: Found = runs.get("likeness_on_the_starter", {})
    timed = {
        name: one["seconds"]
        for name, one in runs.items()
        if name.startswith("ours") and "seconds" in one
    }
    alike = {
        name: seconds
        for name, seconds in timed.items()
        if likeness.get(name.removesuffix(", compiled"), 0) >= LIKENESS
    }
    best = min(alike or timed, key=lambda name: timed[name], default=None)
    if best is None:
        return
    session.record["stacked_way"] = best
    theirs = runs.get(PLAIN, {}).get("seconds")
    session.figure("stacked_seconds", timed[best])
    session.figure("stacked_psnr", likeness.get(best.removesuffix(", compiled")))
    session.figure("stacked_speedup", None if theirs is None else round(theirs / timed[best], 3))
