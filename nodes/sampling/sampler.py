"""Latte Sampler: the authors' DDIM and DDPM, with what they need."""

from __future__ import annotations

from typing import Any

from ...latte_core.checks import check_integer, check_seed
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
from ..widgets import MAX_STEPS, NOISE_ORDERS, run_length, seed_input, share

METHODS = ["ddim", "ddpm"]


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

    DISPLAY_NAME = "Latte Sampler"
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
