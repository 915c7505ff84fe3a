"""The ways from a prompt to frames that `end_to_end.py` times: diffusers' pipeline and ours.

Both open the same folder in the same number format. Every way of diffusers' has a transformer of
its own, whose weights are those of the first, because caches leave hooks behind; so have ours where
weights are changed. Text encoder and VAE are shared by the ways of each side.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from measuring.core import import_core
from torch import Tensor

VAE_FOLDERS = {"temporal": "vae_temporal_decoder", "image": "vae"}
CHUNK = 14  # frames that diffusers' pipeline decodes at a time
THEIRS, OURS = "diffusers", "ours"
SPEED_UPS = (1.6, 2.0, 3.3)
CacheConfig = Callable[[Any, int], Any]
Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One video to make.

    Args:
        prompt: as both pipelines get it.
        noise: (1, 4, F, h, w) to start from.
        steps, scale: of the run.
    """

    prompt: str
    noise: Tensor
    steps: int
    scale: float


@dataclass
class Spent:
    """Seconds of one video: of all, and of encoding and decoding in it."""

    total: float = 0.0
    text: float = 0.0
    decoding: float = 0.0


@dataclass
class Way:
    """One way to make a video.

    Args:
        side: `diffusers` or `ours`.
        name: in the table.
        make: task -> frames (F, H, W, 3) in [0, 1].
        renew: called before each video, outside of what is timed.
    """

    side: str
    name: str
    make: Callable[[Task], Tensor]
    renew: Callable[[], None] = lambda: None
    spent: list[Spent] = field(default_factory=list)
    decibels: list[float] = field(default_factory=list)


class Watch:
    """Tells seconds: of the processor on a CPU, of the clock elsewhere, work there being over."""

    def __init__(self, device: str) -> None:
        self._is_cpu = device == "cpu"
        self._spent = Spent()

    def now(self) -> float:
        """Return the time in seconds."""
        if self._is_cpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def follow(self, owner: Any, method: str, kind: str) -> None:
        """Add up what a method of an object takes, as `text` or `decoding`."""
        call: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = self.now()
            made = call(*args, **kwargs)
            setattr(self._spent, kind, getattr(self._spent, kind) + self.now() - start)
            return made

        setattr(owner, method, timed)

    def time(self, way: Way, task: Task) -> tuple[Tensor, Spent]:
        """Make a video in a way, and return its frames and what it took."""
        way.renew()
        self._spent = Spent()
        start = self.now()
        frames = way.make(task)
        self._spent.total = self.now() - start
        return frames.float().cpu(), self._spent


class Theirs:
    """diffusers' LattePipeline.

    Args:
        folder: in diffusers' layout.
        device, dtype: of all parts.
        vae: `temporal` or `image`.
        watch: what to tell of encoding and decoding.
    """

    def __init__(
        self, folder: Path, device: str, dtype: torch.dtype, vae: str, watch: Watch
    ) -> None:
        import diffusers

        self._watch = watch
        self.pipeline: Any = diffusers.LattePipeline.from_pretrained(folder, torch_dtype=dtype)
        if vae == "temporal":
            self.pipeline.vae = diffusers.AutoencoderKLTemporalDecoder.from_pretrained(
                folder, subfolder=VAE_FOLDERS[vae], torch_dtype=dtype
            )
        self.pipeline.to(device)

    def _own(self) -> Any:
        """Return a pipeline with a transformer of its own on the same weights."""
        first = self.pipeline
        weights = (*first.transformer.parameters(), *first.transformer.buffers())
        same = {id(one): one for one in weights}
        parts = {name: part for name, part in first.components.items() if name != "transformer"}
        own = type(first)(**parts, transformer=copy.deepcopy(first.transformer, same))
        own.set_progress_bar_config(disable=True)
        self._watch.follow(own, "encode_prompt", "text")
        self._watch.follow(own, "decode_latents", "decoding")
        return own

    def way(self, name: str = "", config: CacheConfig | None = None, steps: int = 0) -> Way:
        """Return a way, with a cache if one is given.

        Args:
            name: of the cache.
            config: (pipeline, steps) -> the cache's settings.
            steps: of the runs.
        """
        own = self._own()

        def make(task: Task) -> Tensor:
            made = own(
                task.prompt,
                num_inference_steps=task.steps,
                guidance_scale=task.scale,
                video_length=task.noise.shape[2],
                latents=task.noise.clone(),
                output_type="pt",
                clean_caption=True,
                decode_chunk_size=CHUNK,
            )
            return made.frames[0].permute(0, 2, 3, 1)

        def renew() -> None:
            if config is None:
                return
            if own.transformer.is_cache_enabled:
                own.transformer.disable_cache()
            own.transformer.enable_cache(config(own, steps))

        return Way(THEIRS, name or "plain", make, renew)

    def ways(self, steps: int) -> list[Way]:
        """Return it as its pages call it, and with each of its caches."""
        return [self.way(), *(self.way(name, one, steps) for name, one in their_caches().items())]


def their_caches() -> dict[str, CacheConfig]:
    """Return diffusers' caches by name: (pipeline, steps) -> settings, as its pages have them."""
    import diffusers

    def broadcast(pipeline: Any, steps: int) -> Any:
        return diffusers.PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            temporal_attention_block_skip_range=3,
            cross_attention_block_skip_range=6,
            current_timestep_callback=lambda: pipeline.current_timestep,
        )

    def faster(pipeline: Any, steps: int) -> Any:
        return diffusers.FasterCacheConfig(
            spatial_attention_block_skip_range=2,
            temporal_attention_block_skip_range=2,
            temporal_attention_timestep_skip_range=(-1, 681),
            current_timestep_callback=lambda: pipeline.current_timestep,
            tensor_format="BCFHW",
        )

    def magnitude(pipeline: Any, steps: int) -> Any:
        return diffusers.MagCacheConfig(num_inference_steps=steps, mag_ratios=torch.ones(steps))

    return {
        "PAB 2/3/6": broadcast,
        "FasterCache": faster,
        "FirstBlockCache": lambda pipeline, steps: diffusers.FirstBlockCacheConfig(),
        "MagCache, all ratios 1": magnitude,
        "TaylorSeer": lambda pipeline, steps: diffusers.TaylorSeerCacheConfig(),
        "TaylorSeer lite": lambda pipeline, steps: diffusers.TaylorSeerCacheConfig(
            use_lite_mode=True
        ),
        "TextKVCache": lambda pipeline, steps: diffusers.TextKVCacheConfig(),
        "SeaCache": lambda pipeline, steps: diffusers.SeaCacheConfig(),
    }


class Ours:
    """Our pipeline on the same folder.

    Args:
        model: `starter`, or a folder.
        device, dtype, vae, watch: as for `Theirs`.
    """

    def __init__(self, model: str, device: str, dtype: torch.dtype, vae: str, watch: Watch) -> None:
        self._vae = vae
        self._pipeline = import_core("pipelines.text.pipeline").Pipeline
        self.plain: Any = self._pipeline.from_pretrained(
            model,
            dtype=dtype,
            device=device,
            memory=import_core("memory").KEEP_ALL,
            embedding_cache="off",  # diffusers encodes each prompt anew, the empty one too
        )
        watch.follow(self.plain.parts.text_encoder(), "encode", "text")
        watch.follow(self.plain.parts.vae(vae), "decode", "decoding")

    def _own(self) -> Any:
        """Return a pipeline with a transformer whose weights may be changed."""
        parts = self.plain.parts
        return self._pipeline(
            copy.deepcopy(parts.transformer),
            text_encoder=parts.text_encoder(),
            vaes={self._vae: parts.vae(self._vae)},
            settings=parts.settings,
            defaults=parts.defaults,
        )

    def quantised(self, precision: str) -> Any:
        """Return a pipeline whose transformer is in eight bits."""
        small = self._own()
        small.set_precision(precision)
        return small

    def way(self, name: str, pipeline: Any, cache: Any = None) -> Way:
        """Return a way: a pipeline, and settings of a cache or None."""

        def make(task: Task) -> Tensor:
            made = pipeline(
                task.prompt,
                num_frames=task.noise.shape[2],
                num_steps=task.steps,
                guidance_scale=task.scale,
                latents=task.noise,
                vae=self._vae,
                decode_chunk=CHUNK,
                cache=cache,
            )
            return made.frames

        return Way(OURS, name, make)

    def ways(self, steps: int) -> list[Way]:
        """Return it plain, with fewer products, bits or steps, and with the last two together."""
        fused, small = self._own(), self.quantised("int8")
        import_core("model.weights.fused_qkv").fuse_qkv(fused.parts.transformer)
        settings = import_core("acceleration.settings")
        halves = import_core("acceleration.plans").GuidancePlan()
        schedules = self.plain.parts.cache_schedules("ddim", steps)
        caches = {
            speed_up: settings.CacheSettings(schedules=schedules, speed_up=speed_up)
            for speed_up in SPEED_UPS
        }
        both = settings.CacheSettings(schedules=schedules, speed_up=2.0, guidance=halves)
        return [
            self.way("plain", self.plain),
            self.way("fused QKV", fused),
            *(self.way(f"cache {one:g}x", self.plain, cache) for one, cache in caches.items()),
            self.way(
                "guidance cache",
                self.plain,
                settings.CacheSettings(policy=settings.NONE, guidance=halves),
            ),
            self.way("cache 2x, guidance cache", self.plain, both),
            self.way("int8", small),
            self.way("int8, cache 2x", small, caches[2.0]),
        ]


def full_name(way: Way) -> str:
    """Return the side and the name of a way."""
    return f"{way.side}, {way.name}"


def tasks_for(
    prompts: Sequence[str],
    rounds: int,
    size: tuple[int, ...],
    *,
    steps: int,
    scale: float,
    seed: int,
) -> list[Task]:
    """Return a video for each round, each from another prompt, while there are any, and seed."""
    tasks: list[Task] = []
    for index in range(rounds):
        draws = torch.Generator().manual_seed(seed + index)
        noise = torch.randn(size, generator=draws)
        prompt = prompts[index % len(prompts)]
        tasks.append(Task(prompt=prompt, noise=noise, steps=steps, scale=scale))
    return tasks


def figures_of(way: Way, plain: Way) -> Figures:
    """Return what was measured of a way, beside diffusers without a cache."""
    seconds = [one.total for one in way.spent]
    pairs = zip(way.spent, plain.spent, strict=True)
    return {
        "seconds_median": round(statistics.median(seconds), 4),
        "seconds_min": round(min(seconds), 4),
        "times_faster": round(statistics.median(b.total / a.total for a, b in pairs), 3),
        "times_faster_of_minima": round(min(one.total for one in plain.spent) / min(seconds), 3),
        "psnr": round(statistics.mean(way.decibels), 2),
        "psnr_lowest": round(min(way.decibels), 2),
        "share_text": round(statistics.median(one.text / one.total for one in way.spent), 4),
        "share_decoding": round(
            statistics.median(one.decoding / one.total for one in way.spent), 4
        ),
        "seconds_denoising": round(
            statistics.median(one.total - one.text - one.decoding for one in way.spent), 4
        ),
    }


def silence() -> None:
    """Keep diffusers and transformers from reporting on what they load."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
