"""Sampling nodes: Latte Sampler, and its noise and sigmas for SamplerCustomAdvanced."""

from __future__ import annotations

from typing import Any

from ..latte_core.types import MAX_SEED, check_integer, check_seed
from .host.sockets import (
    check_choice,
    check_conditioning,
    check_latent,
    check_latent_size,
    check_model,
    check_number,
)

MAX_STEPS = 1000
NOISE_ORDERS = ["comfyui", "reference"]


def seed_input(name: str) -> dict[str, Any]:
    """Describe a seed widget."""
    options = {
        "default": 0,
        "min": 0,
        "max": MAX_SEED,
        "control_after_generate": True,
        "tooltip": "The same seed gives the same noise, the same as KSampler draws.",
    }
    return {name: ("INT", options)}


def run_length() -> dict[str, Any]:
    """Describe the steps widget."""
    options = {
        "default": 50,
        "min": 1,
        "max": MAX_STEPS,
        "tooltip": "Sampling steps. 50 is the authors' choice; 20 to 30 are often enough.",
    }
    return {"steps": ("INT", options)}


def share() -> dict[str, Any]:
    """Describe the denoise widget."""
    options = {
        "default": 1.0,
        "min": 0.01,
        "max": 1.0,
        "step": 0.01,
        "tooltip": "1 makes a new video; less keeps more of the latents that come in.",
    }
    return {"denoise": ("FLOAT", options)}


class LatteSampler:
    """The authors' DDIM in one node."""

    CATEGORY = "Latte/sampling"
    DESCRIPTION = (
        "Make a video with Latte's own DDIM, step by step the same as the authors' pipeline and "
        "as this pack's command line. For other samplers use KSampler or SamplerCustomAdvanced."
    )
    SEARCH_ALIASES = ["latte", "ddim", "sample video", "ksampler", "text to video"]
    FUNCTION = "sample"
    RETURN_TYPES = ("LATENT",)
    RETURN_NAMES = ("latent",)
    OUTPUT_TOOLTIPS = ("The finished latents, for Latte VAE Decode or VAE Decode.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Describe the inputs."""
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "A Latte model."}),
                "positive": ("CONDITIONING", {"tooltip": "What should be seen."}),
                "negative": ("CONDITIONING", {"tooltip": "What should not be seen."}),
                "latent_image": (
                    "LATENT",
                    {"tooltip": "From Empty Latte Latent, or an encoded video to change."},
                ),
                **seed_input("seed"),
                **run_length(),
                "cfg": (
                    "FLOAT",
                    {
                        "default": 7.5,
                        "min": 0.0,
                        "max": 100.0,
                        "step": 0.1,
                        "round": 0.01,
                        "tooltip": "How closely the video follows the prompt. 1 and below "
                        "switch guidance and the negative prompt off.",
                    },
                ),
                **share(),
                "eta": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.01,
                        "tooltip": "Noise added in every step: 0 is DDIM, 1 behaves like DDPM.",
                    },
                ),
            }
        }

    def sample(
        self,
        model: Any,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        seed: int,
        steps: int,
        cfg: float,
        denoise: float,
        eta: float,
    ) -> tuple[dict[str, Any]]:
        """Check everything at the border, then run."""
        node = "Latte Sampler"
        check_seed(seed)
        check_integer("steps", steps, 1, MAX_STEPS)
        cfg = check_number("cfg", cfg, 0.0, 100.0)
        denoise = check_number("denoise", denoise, 0.01, 1.0)
        eta = check_number("eta", eta, 0.0, 1.0)
        check_model(model, node)
        width = model.model.diffusion_model.config.caption_channels
        check_conditioning(positive, "positive", width, node)
        check_conditioning(negative, "negative", width, node)
        samples = check_latent(latent_image, "latent_image", node)
        check_latent_size(samples, "latent_image", node)
        from .host.sampling import run_ddim

        settings = {"seed": seed, "steps": steps, "cfg": cfg, "denoise": denoise, "eta": eta}
        return (run_ddim(model, positive, negative, latent_image, samples, **settings),)


class LatteScheduler:
    """The noise levels of the authors' DDIM."""

    CATEGORY = "Latte/sampling"
    DESCRIPTION = (
        "Latte's own noise levels (leading spacing: 980, 960, ... 0 for 50 steps) for "
        "SamplerCustomAdvanced. No stock scheduler gives them."
    )
    SEARCH_ALIASES = ["latte sigmas", "ddim schedule", "leading", "scheduler", "basic scheduler"]
    FUNCTION = "make"
    RETURN_TYPES = ("SIGMAS",)
    RETURN_NAMES = ("sigmas",)
    OUTPUT_TOOLTIPS = ("Noise levels, high to low, for SamplerCustomAdvanced.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Describe the inputs."""
        model = {"model": ("MODEL", {"tooltip": "A Latte model; its noise schedule is used."})}
        return {"required": {**model, **run_length(), **share()}}

    def make(self, model: Any, steps: int, denoise: float) -> tuple[Any]:
        """Return (steps + 1,) sigmas that end in 0."""
        check_model(model, "Latte Scheduler")
        check_integer("steps", steps, 1, MAX_STEPS)
        denoise = check_number("denoise", denoise, 0.01, 1.0)
        from .host.sampling import latte_sigmas

        return (latte_sigmas(model, steps, denoise),)


class LatteNoise:
    """Start noise with a choice of drawing order."""

    CATEGORY = "Latte/sampling"
    DESCRIPTION = (
        "Start noise for SamplerCustomAdvanced: in KSampler's order, or in the order of the "
        "authors' pipeline, to compare seeds with it."
    )
    SEARCH_ALIASES = ["latte seed", "random noise", "noise order", "reference noise"]
    FUNCTION = "make"
    RETURN_TYPES = ("NOISE",)
    RETURN_NAMES = ("noise",)
    OUTPUT_TOOLTIPS = ("A noise source for SamplerCustomAdvanced.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Describe the inputs."""
        order = {
            "default": "comfyui",
            "tooltip": "comfyui: what KSampler draws for this seed. reference: what the authors' "
            "pipeline draws.",
        }
        return {"required": {**seed_input("noise_seed"), "noise_order": (NOISE_ORDERS, order)}}

    def make(self, noise_seed: int, noise_order: str) -> tuple[Any]:
        """Return a noise source."""
        check_seed(noise_seed)
        check_choice("noise_order", noise_order, NOISE_ORDERS)
        from .host.sampling import LatteNoiseSource

        return (LatteNoiseSource(noise_seed, noise_order),)
