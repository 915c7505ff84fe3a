"""Count a forward pass of the class model Latte-XL/2; `op_count.py` prints it.

16 frames of 256 x 256 and 101 classes in bfloat16: two rows, the class and the null class of one
video under guidance, or one row without guidance. The authors' recipe is that of
`ways/training.py`: an explicit softmax, and a modulation that is evaluated for every frame and for
every place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from measuring.core import import_core
from measuring.counting import OpCounter, count
from torch import Tensor
from ways.training import Recipe

FRAMES, CELLS, CLASSES = 16, 32, 101
DTYPE = torch.bfloat16


def model_of(**changes: Any) -> Any:
    """Return Latte-XL/2 on meta, its tables in 16 bits as well."""
    config = import_core("config.latte").LatteConfig.preset(
        "Latte-XL/2", **{"conditioning": "class", "num_classes": CLASSES, **changes}
    )
    with torch.device("meta"):
        model = import_core("model.latte.transformer").Latte.from_config(config, dtype=DTYPE)
    return model.eval()


def inputs(rows: int) -> tuple[Tensor, Tensor]:
    """Return latents and timesteps on meta."""
    latents = torch.empty(rows, 4, FRAMES, CELLS, CELLS, dtype=DTYPE, device="meta")
    return latents, torch.zeros(rows, dtype=torch.int64, device="meta")


def count_recipe(rows: int) -> OpCounter:
    """Count the authors' recipe."""
    model = model_of().to(DTYPE)  # with its tables, which would carry everything into float32
    model.t_embedder.mlp[0].register_forward_pre_hook(lambda _, given: (given[0].to(DTYPE),))
    latents, timesteps = inputs(rows)
    dropped = torch.zeros(rows, dtype=torch.bool, device="meta")
    with torch.device("meta"):
        recipe = Recipe(model)
        return count(lambda: recipe.predict(latents, timesteps, timesteps, dropped))


def count_class(
    rows: int, *, kernels: bool = False, own_attention: bool = False, **changes: Any
) -> OpCounter:
    """Count our class.

    Args:
        rows: of the batch.
        kernels: with our fused kernels.
        own_attention: a host does the attention.
        changes: to the config.
    """
    choice = import_core("kernels.choice")
    attention = import_core("model.attention")
    model = model_of(**changes)
    model.kernels = choice.KernelSet(choice.KernelUse.ALWAYS if kernels else choice.KernelUse.NEVER)
    latents, timesteps = inputs(rows)
    given: dict[str, Any] = {}
    if model.config.conditioning == "class":
        given["class_labels"] = timesteps  # on meta nobody looks at the numbers
    if own_attention:

        def attend(*args: Any, **kwargs: Any) -> Tensor:
            return attention.scaled_dot_product(*args, **kwargs)

        given["hooks"] = attention.BlockHooks(attention=attend)
    return count(lambda: model(latents, timesteps, **given))


def class_ways() -> dict[str, Callable[[], OpCounter]]:
    """Return what is counted, by name."""
    return {
        "the authors' recipe, guided": lambda: count_recipe(2),
        "ours, guided": lambda: count_class(2),
        "ours, guided, kernels": lambda: count_class(2, kernels=True),
        "the authors' recipe, no guidance": lambda: count_recipe(1),
        "ours, no guidance": lambda: count_class(1),
        "ours, no guidance, kernels": lambda: count_class(1, kernels=True),
    }
