"""Random Lattes whose outputs are about 1, inputs for them, and the formula's answer to both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from latte_core.config.latte import LatteConfig
from latte_core.model.latte.transformer import Latte

from .latte_formula import formula
from .tiny.latte import tiny_latte_config

TIMES = (3.0, 700.0, 999.0)


def even_latte(seed: int = 0, **changes: Any) -> Latte:
    """Return a Latte of any depth whose weights keep numbers near 1; its tables are random too.

    Random tables show that a model's own are used. Of `changes` from the tiny Latte, `hidden_size`
    and `num_heads` should fit each other.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Latte(LatteConfig.from_dict(tiny_latte_config(**changes)))
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 16
            torch.nn.init.normal_(parameter, std=0.7 * fan_in**-0.5)
        for table in (model.pos_embed, getattr(model, "temp_embed", None)):
            if table is not None:
                torch.nn.init.normal_(table, std=0.7)
    return model.eval()


def inputs_for(
    model: Latte,
    batch: int = 3,
    frames: int = 3,
    size: tuple[int, int] | None = None,
    images: int = 0,
    has_image_labels: bool = False,
) -> dict[str, Any]:
    """Return arguments of `forward`: noise, timesteps 3, 700 and 999, and what steers the model."""
    config = model.config
    generator = torch.Generator().manual_seed(5)
    height, width = size or (config.input_size, config.input_size)
    given: dict[str, Any] = {
        "latents": torch.randn(batch, 4, frames + images, height, width, generator=generator),
        "timesteps": torch.tensor(TIMES[:batch]),
        "num_images": images,
    }
    if config.conditioning == "class":
        labels = torch.randint(config.num_labels, (batch, 1 + images), generator=generator)
        given["class_labels"] = labels[:, 0]
        if has_image_labels:
            given["image_labels"] = labels[:, 1:]
    if config.conditioning == "clip_text":
        given["text_embedding"] = torch.randn(batch, config.text_features, generator=generator)
    return given


def exact(model: Latte, given: dict[str, Any]) -> Tensor:
    """Return the formula's output in float64."""
    return formula(
        model.config.to_dict(),
        model.state_dict(),
        given["latents"],
        timesteps=given["timesteps"],
        labels=given.get("class_labels"),
        text=given.get("text_embedding"),
        image_labels=given.get("image_labels"),
        num_images=given.get("num_images", 0),
    )


@torch.no_grad()
def error_of(model: Latte, given: dict[str, Any]) -> float:
    """Return the largest difference from the formula, whose output must be about 1."""
    expected = exact(model, given)
    assert 0.2 < float(expected.std()) < 3, "weights that tell nothing"
    found = model(**given)
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    return float((found.double() - expected).abs().max())
