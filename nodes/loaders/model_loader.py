"""Loader nodes: MODEL, CLIP, VAE and LoRA from listed files, Latte folders or the starter."""

from __future__ import annotations

from typing import Any

from ..host.base import paths
from ..host.base.sockets import check_choice, check_model, check_number

WEIGHT_DTYPES = ["default", "fp32", "bf16", "fp16", "fp8_e4m3fn", "fp8_e5m2"]
DEVICES = ["default", "cpu"]
VAE_KINDS = ["auto", "temporal", "image"]


class LatteModelLoader:
    """Opens a Latte transformer of any kind."""

    CATEGORY = "Latte/loaders"
    DESCRIPTION = (
        "Open a Latte model: a starter that comes with this pack, a Latte-1 folder in "
        "models/diffusers, or a single file in models/diffusion_models, be it text-to-video, "
        "class-conditional (ucf101) or unconditional (ffs, skytimelapse, taichi-hd). The MODEL "
        "works with every stock sampler."
    )
    SEARCH_ALIASES = [
        *("latte", "load latte", "text to video", "video model", "starter"),
        *("ucf101", "class starter", "unconditional", "dit"),
    ]
    FUNCTION = "load"
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("The Latte model, for Latte Sampler, KSampler and model patches.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """List what can be loaded."""
        return {
            "required": {
                "model_name": (
                    paths.options("diffusion_models"),
                    {
                        "default": paths.STARTER,
                        "tooltip": "starter and class-starter: the small models inside this pack, "
                        "one for prompts, one for classes. A name that ends in / is a Latte folder "
                        "in models/diffusers; the others are files in models/diffusion_models.",
                    },
                ),
                "weight_dtype": (
                    WEIGHT_DTYPES,
                    {
                        "default": "default",
                        "tooltip": "How weights are kept in memory. default lets ComfyUI choose; "
                        "fp8 halves the memory of fp16 and costs a little quality.",
                    },
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, model_name: str, weight_dtype: str) -> str:
        """Load again when the file was replaced."""
        return paths.fingerprint(model_name, "diffusion_models", "model_name")

    def load(self, model_name: str, weight_dtype: str) -> tuple[Any]:
        """Open the chosen model."""
        check_choice("weight_dtype", weight_dtype, WEIGHT_DTYPES)
        path = paths.locate(model_name, "diffusion_models", "model_name")
        from ..host.model.loading import open_model

        return (open_model(str(path), weight_dtype),)


class LatteTextEncoderLoader:
    """Opens the T5 text encoder."""

    CATEGORY = "Latte/loaders"
    DESCRIPTION = (
        "Open the T5 text encoder that turns prompts into what Latte reads: the starter's, the "
        "one in a Latte-1 folder, or a t5xxl file that other models use too. Gives a CLIP that "
        "CLIP Text Encode accepts as well."
    )
    SEARCH_ALIASES = ["latte t5", "t5xxl", "load text encoder", "clip loader", "latte clip"]
    FUNCTION = "load"
    RETURN_TYPES = ("CLIP",)
    RETURN_NAMES = ("clip",)
    OUTPUT_TOOLTIPS = ("The text encoder, for Latte Text Encode or CLIP Text Encode.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """List what can be loaded."""
        return {
            "required": {
                "encoder_name": (
                    paths.options("text_encoders"),
                    {
                        "default": paths.STARTER,
                        "tooltip": "Must belong to the model: starter for the starter; for "
                        "Latte-1 its folder or a t5xxl file (fp16, fp8 or scaled fp8) in "
                        "models/text_encoders.",
                    },
                ),
                "device": (
                    DEVICES,
                    {
                        "default": "default",
                        "tooltip": "cpu keeps the text encoder out of video memory; encoding "
                        "takes longer.",
                    },
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, encoder_name: str, device: str) -> str:
        """Load again when the file was replaced."""
        return paths.fingerprint(encoder_name, "text_encoders", "encoder_name")

    def load(self, encoder_name: str, device: str) -> tuple[Any]:
        """Open the chosen encoder."""
        check_choice("device", device, DEVICES)
        path = paths.locate(encoder_name, "text_encoders", "encoder_name")
        from ..host.text.clip import load_clip

        return (load_clip(path, device),)


class LatteVAELoader:
    """Opens the image VAE or the temporal decoder."""

    CATEGORY = "Latte/loaders"
    DESCRIPTION = (
        "Open a VAE for Latte. The temporal decoder sees neighbouring frames and flickers less; "
        "the image VAE decodes each frame alone and also encodes pictures well. Files in "
        "diffusers' or Stable Video Diffusion's layout both open."
    )
    SEARCH_ALIASES = ["latte vae", "temporal vae", "temporal decoder", "svd vae", "load vae"]
    FUNCTION = "load"
    RETURN_TYPES = ("VAE",)
    RETURN_NAMES = ("vae",)
    OUTPUT_TOOLTIPS = ("The VAE, for Latte VAE Decode, VAE Decode and VAE Encode.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """List what can be loaded."""
        return {
            "required": {
                "vae_name": (
                    paths.options("vae"),
                    {
                        "default": paths.STARTER,
                        "tooltip": "starter for both starter models; for Latte-1 its folder, or a "
                        "Stable Diffusion 1.x or Stable Video Diffusion VAE in models/vae, which "
                        "serves class-conditional and unconditional models too.",
                    },
                ),
                "kind": (
                    VAE_KINDS,
                    {
                        "default": "auto",
                        "tooltip": "Folders and the starter hold two VAEs. auto takes the "
                        "temporal decoder where there is one; a file is what it is.",
                    },
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, vae_name: str, kind: str) -> str:
        """Load again when the file was replaced."""
        return paths.fingerprint(vae_name, "vae", "vae_name")

    def load(self, vae_name: str, kind: str) -> tuple[Any]:
        """Open the chosen VAE."""
        check_choice("kind", kind, VAE_KINDS)
        path = paths.locate(vae_name, "vae", "vae_name")
        from ..host.vae.vae import load_vae

        return (load_vae(path, kind),)


class LatteLoraLoader:
    """Puts a LoRA onto a Latte model."""

    CATEGORY = "Latte/loaders"
    DESCRIPTION = (
        "Put a LoRA onto a Latte model: diffusers (PEFT), kohya and ComfyUI names, also files "
        "made for the spatial layers only. Says how much of the file matched and stops when "
        "nothing did."
    )
    SEARCH_ALIASES = ["latte lora", "load lora", "peft", "kohya", "lora loader model only"]
    FUNCTION = "load"
    RETURN_TYPES = ("MODEL", "STRING")
    RETURN_NAMES = ("model", "report")
    OUTPUT_TOOLTIPS = (
        "The model with the LoRA on it; the input model is untouched.",
        "How many of the file's layers matched.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """List what can be loaded."""
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "A Latte model."}),
                "lora_name": (
                    paths.listed_files("loras"),
                    {"tooltip": "A file in models/loras that was trained for Latte."},
                ),
                "strength": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": -20.0,
                        "max": 20.0,
                        "step": 0.01,
                        "tooltip": "How strongly the LoRA acts; 0 leaves the model as it is, "
                        "negative values reverse it.",
                    },
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, lora_name: str, **_: Any) -> str:
        """Load again when the file was replaced."""
        return paths.fingerprint(lora_name, "loras", "lora_name")

    def load(self, model: Any, lora_name: str, strength: float) -> tuple[Any, str]:
        """Return a patched clone and the report."""
        check_model(model, "Latte LoRA Loader")
        strength = check_number("strength", strength, -20.0, 20.0)
        path = paths.locate(lora_name, "loras", "lora_name")
        from ..host.model.lora import apply_lora

        return apply_lora(model, path, strength)
