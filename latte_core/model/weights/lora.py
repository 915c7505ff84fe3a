"""Low-rank adapters for training: a frozen layer plus a product of two thin matrices.

LoRA (Hu et al., arXiv 2106.09685): W x + (alpha / rank) B A x, with B = 0 at the start, so that a
new adapter changes nothing. Names are those that ComfyUI's own LoRA loader reads without help.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...checks import is_number, is_whole
from ...errors import IncompatibleInputsError, InvalidInputError
from ..attention import FusedLinear
from ..latte.blocks import TemporalBlock
from ..latte.transformer import Latte
from ..t2v.transformer import LatteT2V
from .alpha import MOST_ALPHA, is_alpha

NATIVE_PREFIX = "diffusion_model."  # of every name in a file, as ComfyUI calls the transformer
DOWN_NAME, UP_NAME, ALPHA_NAME = "lora_A.weight", "lora_B.weight", "alpha"

LoraBlocks = Literal["spatial", "temporal", "both"]
BLOCK_KINDS = ("spatial", "temporal", "both")
LoraTarget = Literal["attention", "cross_attention", "feed_forward"]
TARGETS = ("attention", "cross_attention", "feed_forward")
MAX_RANK = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSettings:
    """Shape of an adapter.

    Args:
        rank: width of the two thin matrices, 1 .. 4096.
        alpha: the adapter counts alpha / rank times, so a new rank needs no new learning rate.
        blocks: "spatial" changes how frames look, "temporal" how they move, "both" all of it. In
            variants 3 and 4 of Latte, whose blocks hold both attentions, the feed-forward layers
            count as spatial: they work on every frame alone.
        targets: layers of those blocks. "attention": the projections of self-attention;
            "cross_attention": those of attention to the text, which only text-to-video models
            have, in spatial blocks; "feed_forward": both its layers.
        dropout: share of an adapter's inputs that is set to 0 in training mode, 0 .. below 1.

    Raises:
        InvalidInputError: naming the value, and what it may be.
    """

    rank: int = 16
    alpha: float = 16.0
    blocks: LoraBlocks = "both"
    targets: tuple[LoraTarget, ...] = ("attention", "cross_attention")
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not is_whole(self.rank, 1, MAX_RANK):
            raise wrong("rank", self.rank, f"a whole number from 1 to {MAX_RANK}")
        if not is_alpha(self.alpha) or self.alpha <= 0:
            raise wrong("alpha", self.alpha, f"a number above 0 and at most {MOST_ALPHA:.0f}")
        if not is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise wrong("dropout", self.dropout, "a number from 0 to below 1")
        if self.blocks not in BLOCK_KINDS:
            raise wrong("blocks", self.blocks, f"one of {', '.join(BLOCK_KINDS)}")
        listed = cast("object", self.targets)
        entries = cast("tuple[object, ...]", listed) if isinstance(listed, tuple) else ()
        known = [one for one in TARGETS if one in entries]
        if not known or len(known) < len(entries):
            raise wrong("targets", self.targets, f"some of {', '.join(TARGETS)}, each once")

    @property
    def scale(self) -> float:
        """What the product of the two matrices is multiplied by."""
        return self.alpha / self.rank


class Factor(nn.Module):
    """One thin matrix, a module so that its name ends in `.weight` as in other LoRA files.

    It stays float32 and is used in the type of its input, so small updates are not rounded away.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., columns) -> (..., rows)."""
        return F.linear(hidden, self.weight.to(hidden.dtype))


class LoraLinear(nn.Module):
    """A linear layer whose weights are frozen, with an adapter.

    It shares the parameters of the layer it stands for, under the same names.

    Args:
        layer: what it stands for.
        down: (rank, columns) the matrix A.
        settings: of the adapter.
        was_trained: names of the model's parameters that were trained before.
    """

    def __init__(
        self, layer: nn.Linear, down: Tensor, settings: LoraSettings, was_trained: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.settings = settings
        self.was_trained = was_trained
        # Takes the place of torch's dropout, where a training has masks of its own.
        self.drop: Callable[[Tensor], Tensor] | None = None
        self._replaced = (layer,)  # in a tuple, so that it is no part of the module tree
        self.register_parameter("weight", parameter_of(layer, "weight"))
        self.register_parameter("bias", parameter_of(layer, "bias"))
        self.lora_A = Factor(down)
        self.lora_B = Factor(torch.zeros(layer.out_features, settings.rank, device=down.device))
        self.train(layer.training)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., columns) -> (..., rows)."""
        weight: Any = self.weight
        bias: Any = self.bias
        out = F.linear(hidden, weight, bias)
        if self.settings.dropout and self.training:
            if self.drop is not None:
                hidden = self.drop(hidden)
            else:  # torch's own generator: recomputed activations can replay no other one
                hidden = F.dropout(hidden, self.settings.dropout)
        return torch.add(out, self.lora_B(self.lora_A(hidden)), alpha=self.settings.scale)

    def plain(self) -> nn.Linear:
        """Return the layer that this one stands for, with the present parameters."""
        (layer,) = self._replaced
        for name in ("weight", "bias"):
            layer.register_parameter(name, parameter_of(self, name))
        return layer.train(self.training)


def add_lora(
    model: LatteT2V | Latte, settings: LoraSettings, *, generator: torch.Generator
) -> list[nn.Parameter]:
    """Give layers of a model adapters, and freeze everything else.

    Args:
        model: changed in place; its outputs stay the same until an adapter is trained.
        settings: which layers, and how.
        generator: of the matrices A, drawn as Kaiming uniform in float32.

    Returns:
        The parameters to train, A and B of each layer in turn, float32.

    Raises:
        InvalidInputError: if the model has adapters, or no layer that `settings` name.
    """
    if lora_layers(model):
        raise InvalidInputError(
            "The model has LoRA adapters already. Take them off with remove_lora first."
        )
    layers = target_layers(model, settings)
    if not layers:
        raise InvalidInputError(
            f"There is nothing to train: this model has no layer of {', '.join(settings.targets)} "
            f"in {settings.blocks} blocks. Attention to the text is in spatial blocks of "
            "text-to-video models only. Choose other blocks or targets."
        )
    was_trained = tuple(name for name, one in model.named_parameters() if one.requires_grad)
    model.requires_grad_(False)
    trained: list[nn.Parameter] = []
    for name, layer in layers.items():
        down = torch.empty(settings.rank, layer.in_features, device=generator.device)
        nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
        adapted = LoraLinear(layer, down.to(layer.weight.device), settings, was_trained)
        model.set_submodule(name, adapted)
        trained += [adapted.lora_A.weight, adapted.lora_B.weight]
    return trained


def remove_lora(model: nn.Module) -> None:
    """Put back the layers that `add_lora` replaced, and train again what was trained before.

    The weights are bit for bit what they were; a model without adapters stays as it is.
    """
    layers = lora_layers(model)
    for name, layer in layers.items():
        model.set_submodule(name, layer.plain())
    for layer in layers.values():
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in layer.was_trained)
        break  # all of them remember the same names


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """Return the layers that have adapters, by name."""
    named = modules_of(model).items()
    return {name: one for name, one in named if isinstance(one, LoraLinear)}


def lora_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the adapters under the names of a LoRA file: A, B and alpha of each layer.

    A and B share memory with the model; a model without adapters gives an empty dict.
    """
    state: dict[str, Tensor] = {}
    for name, layer in lora_layers(model).items():
        start = f"{NATIVE_PREFIX}{name}."
        state[start + DOWN_NAME] = layer.lora_A.weight.detach()
        state[start + UP_NAME] = layer.lora_B.weight.detach()
        state[start + ALPHA_NAME] = torch.tensor(layer.settings.alpha, dtype=torch.float32)
    return state


@torch.no_grad()
def load_lora_state(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Take up the adapters of a LoRA file, to go on training them.

    Args:
        model: with adapters from `add_lora`, whose A and B are overwritten.
        tensors: under the names of `lora_state`.

    Raises:
        IncompatibleInputsError: if layers, rank or alpha differ.
    """
    own = lora_state(model)
    missing = [name for name in own if name not in tensors]
    extra = [name for name in tensors if name not in own]
    for name, value in own.items():
        is_other = name in tensors and tensors[name].shape != value.shape
        is_alpha = name in tensors and name.endswith(f".{ALPHA_NAME}")
        if is_other or (is_alpha and float(tensors[name]) != float(value)):
            extra.append(name)
    if missing or extra:
        raise IncompatibleInputsError(
            f"The LoRA does not fit the model's adapters: {len(missing)} tensors are missing, "
            f"{len(extra)} are unknown, of another rank or of another alpha "
            f"({', '.join([*missing, *extra][:3])}). Give the adapters the settings of the file."
        )
    for name, value in own.items():
        value.copy_(tensors[name])


def base_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights without adapters, under the names that the model has without them."""
    starts = tuple(f"{name}.lora_" for name in lora_layers(model))
    state = model.state_dict()
    return {name: value for name, value in state.items() if not name.startswith(starts)}


def target_layers(model: LatteT2V | Latte, settings: LoraSettings) -> dict[str, nn.Linear]:
    """Return the linear layers that settings choose, by name, in the order of the model.

    Raises:
        InvalidInputError: for layers that a host made, and fused ones.
    """
    found: dict[str, nn.Linear] = {}
    for start, kind, target in block_parts(model):
        if settings.blocks not in ("both", kind) or target not in settings.targets:
            continue
        for name, layer in modules_of(model.get_submodule(start)).items():
            if isinstance(layer, nn.Linear):
                found[f"{start}.{name}"] = layer
    if any(isinstance(one, FusedLinear) for one in found.values()):
        raise InvalidInputError(
            "Adapters are trained on the separate layers of queries, keys and values, but this "
            "model has them fused. Take them apart with unfuse_qkv, and fuse them after training."
        )
    strange = next((one for one in found.values() if type(one) is not nn.Linear), None)
    if strange is not None:
        raise InvalidInputError(
            f"Adapters are trained on plain layers only, but this model has {type(strange)}. Load "
            "it with latte_core.load_transformer."
        )
    return found


def block_parts(model: LatteT2V | Latte) -> Iterator[tuple[str, LoraBlocks, LoraTarget]]:
    """Yield each part of each block: its name, the kind of block it belongs to, what it is."""
    if isinstance(model, LatteT2V):
        for index in range(len(model.transformer_blocks)):
            yield f"transformer_blocks.{index}.attn1", "spatial", "attention"
            yield f"transformer_blocks.{index}.ff", "spatial", "feed_forward"
            yield f"transformer_blocks.{index}.attn2", "spatial", "cross_attention"
        for index in range(len(model.temporal_transformer_blocks)):
            yield f"temporal_transformer_blocks.{index}.attn1", "temporal", "attention"
            yield f"temporal_transformer_blocks.{index}.ff", "temporal", "feed_forward"
        return
    for index, block in enumerate(model.blocks):
        kind: LoraBlocks = "temporal" if isinstance(block, TemporalBlock) else "spatial"
        yield f"blocks.{index}.attn", kind, "attention"
        if hasattr(block, "attn_temp"):
            yield f"blocks.{index}.attn_temp", "temporal", "attention"
        yield f"blocks.{index}.mlp", kind, "feed_forward"


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return all modules inside a model by name, itself under ""."""
    return dict(cast("Iterator[tuple[str, nn.Module]]", model.named_modules()))


def parameter_of(module: nn.Module, name: str) -> nn.Parameter | None:
    """Return a parameter of a layer, None where it has none."""
    return getattr(module, name)


def wrong(key: str, value: object, expected: str) -> InvalidInputError:
    """Return the error for a setting that cannot be used."""
    return InvalidInputError(f"{key} is {value!r} in the LoRA settings; it must be {expected}.")
