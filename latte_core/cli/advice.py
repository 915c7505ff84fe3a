"""What the nodes that core's sentences name are called on the command line."""

from __future__ import annotations

OPTIONS = {
    "Latte Model Loader": "--model of sample",
    "Latte Text Encoder Loader": "the folder text_encoder inside --model",
    "Latte VAE Loader": "--vae of class models, or the folder vae inside --model",
    "Latte LoRA Loader": "--lora of sample",
    "Latte Class Label": "--class",
}


def with_options(sentence: str) -> str:
    """Return a sentence that names nodes of ComfyUI, with what takes their place here."""
    named = [f"{node}: {option}" for node, option in OPTIONS.items() if node in sentence]
    if not named:
        return sentence
    return f"{sentence} These are nodes of ComfyUI; on the command line: {'; '.join(named)}."
