"""Sampling nodes: Latte Sampler, and its noise and sigmas for SamplerCustomAdvanced."""

from __future__ import annotations

from typing import Any

from ...latte_core.checks import MAX_SEED, check_integer, check_seed
from ..host.base.sockets import (
    check_choice,
    check_conditioning,
    check_guidance,
    check_latent,
    check_latent_size,
    check_model,
    check_number,
    config_of,
)

MAX_STEPS = 1000
NOISE_ORDERS = ["comfyui", "reference"]
METHODS = ["ddim", "ddpm"]


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


def further_choices() -> dict[str, Any]:
    """Describe the widgets of Latte Sampler that most people leave as they are."""
    step_string = {
        "default": "",
        "multiline": False,
        "tooltip": "The authors' way to choose time steps, in the place of steps: 250, or 10,15,20 "
        "for as many in each third, or ddim50. Empty: steps is used.",
    }
    noise_order = {
        "default": "comfyui",
        "tooltip": "comfyui: the noise that KSampler draws for this seed. reference: that of the "
        "authors' scripts, to compare with them.",
    }
    temporal = {
        "default": True,
        "tooltip": "Off: frames do not see each other, each is a picture of its own. Latte-0 "
        "makes single pictures (1 frame) without it.",
    }
    method = {
        "default": "ddim",
        "tooltip": "ddpm uses the variance that the model learned; the authors sample "
        "class-conditional and unconditional models with it, in 250 steps and with cfg 7 for "
        "classes. ddim needs fewer steps.",
    }
    return {
        "method": (METHODS, method),
        "step_string": ("STRING", step_string),
        "noise_order": (NOISE_ORDERS, noise_order),
        "temporal_attention": ("BOOLEAN", temporal),
    }


class LatteSampler:
    """The authors' DDIM and DDPM in one node."""

    CATEGORY = "Latte/sampling"
    DESCRIPTION = (
        "Make a video with Latte's own DDIM or DDPM, step by step the same as the authors' "
        "pipeline and scripts and as this pack's command line. For other samplers use KSampler or "
        "SamplerCustomAdvanced."
    )
    SEARCH_ALIASES = ["latte", "ddim", "ddpm", "sample video", "ksampler", "text to video"]
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
                "positive": (
                    "CONDITIONING",
                    {
                        "tooltip": "What should be seen, from Latte Text Encode, Latte Class Label "
                        "or Latte Unconditional, as the model needs it."
                    },
                ),
                "negative": (
                    "CONDITIONING",
                    {"tooltip": "What should not be seen, from the same node."},
                ),
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
                        "tooltip": "How closely the video follows the prompt or class. 1 and below "
                        "switch guidance and the negative input off.",
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
                        "tooltip": "Noise that ddim adds in every step: 0 is none, 1 behaves like "
                        "DDPM. ddpm has its own.",
                    },
                ),
            },
            "optional": further_choices(),
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
        method: str = "ddim",
        step_string: str = "",
        noise_order: str = "comfyui",
        temporal_attention: bool = True,
    ) -> tuple[dict[str, Any]]:
        """Check everything at the border, then run."""
        node = "Latte Sampler"
        check_seed(seed)
        check_integer("steps", steps, 1, MAX_STEPS)
        cfg = check_number("cfg", cfg, 0.0, 100.0)
        denoise = check_number("denoise", denoise, 0.01, 1.0)
        eta = check_number("eta", eta, 0.0, 1.0)
        check_choice("method", method, METHODS)
        check_choice("noise_order", noise_order, NOISE_ORDERS)
        check_model(model, node)
        check_conditioning(positive, "positive", model, node)
        check_conditioning(negative, "negative", model, node)
        check_guidance(cfg, config_of(model), node)
        samples = check_latent(latent_image, "latent_image", node)
        check_latent_size(samples, "latent_image", config_of(model), node)
        from ..host.run.sampling import RunSettings, run_sampler

        settings = RunSettings(
            seed=seed,
            steps=steps,
            cfg=cfg,
            denoise=denoise,
            eta=eta,
            method=method,
            step_string=str(step_string),
            noise_order=noise_order,
            temporal_attention=temporal_attention,
        )
        return (run_sampler(model, positive, negative, latent_image, samples, settings),)


class LatteScheduler:
    """The noise levels of the authors' samplers."""

    CATEGORY = "Latte/sampling"
    DESCRIPTION = (
        "Latte's own noise levels for SamplerCustomAdvanced; no stock scheduler gives them. For 50 "
        "steps: 980, 960, ... 0 with text-to-video models, 999, 979, ... 20, 0 with "
        "class-conditional and unconditional ones."
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
        from ..host.run.sampling import latte_sigmas

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
        from ..host.run.sampling import LatteNoiseSource

        return (LatteNoiseSource(noise_seed, noise_order),)
