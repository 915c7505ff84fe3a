"""What all transformers are built with: their constructor, and what makes their layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from ..config.latte import LatteConfig
from ..config.t2v import LatteT2VConfig
from ..kernels.choice import KernelSet


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerMaker:
    """Makes layers of the classes of a namespace.

    Args:
        operations: the namespace.
        dtype, device: of the layers.
    """

    operations: Any
    dtype: torch.dtype | None
    device: torch.device | str | None

    def linear(self, columns: int, rows: int) -> nn.Linear:
        """Return a layer (..., columns) -> (..., rows)."""
        return self.operations.Linear(columns, rows, dtype=self.dtype, device=self.device)

    def embedding(self, rows: int, width: int) -> nn.Embedding:
        """Return a table of `rows` rows."""
        return self.operations.Embedding(rows, width, dtype=self.dtype, device=self.device)

    def patches(self, channels: int, width: int, edges: tuple[int, ...]) -> nn.Conv2d | nn.Conv3d:
        """Return what projects each patch: a convolution that steps from one to the next.

        Args:
            channels: of the latents.
            width: token width D.
            edges: height and width of a patch, or its frames, height and width.
        """
        layer = self.operations.Conv2d if len(edges) == 2 else self.operations.Conv3d
        return layer(channels, width, edges, stride=edges, dtype=self.dtype, device=self.device)


AnyConfig = TypeVar("AnyConfig", LatteT2VConfig, LatteConfig)
AnyTransformer = TypeVar("AnyTransformer", bound="VideoTransformer[Any]")


class VideoTransformer(nn.Module, Generic[AnyConfig]):
    """What all transformers share; a class for each has its layers and what they compute.

    Args:
        config: sizes; a record of the kind `config_type`.
        operations: namespace from whose classes every layer is made. One other than torch.nn is
            taken to cast weights to its input by itself.
        dtype, device: of the layers; the small raw tables are always float32.

    `kernels` decides where fused kernels take the place of torch's operators: by default on GPUs
    with Triton, without gradients, where they prove to be faster. Replace it to decide otherwise.
    """

    config_type: type[AnyConfig]

    def __init__(
        self,
        config: AnyConfig,
        *,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.casts_input = operations is nn
        self.kernels = KernelSet()
        self.make_layers(config, LayerMaker(operations=operations, dtype=dtype, device=device))

    @classmethod
    def from_config(
        cls: type[AnyTransformer],
        config: Mapping[str, Any] | AnyConfig,
        *,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> AnyTransformer:
        """Build a model to train from a config.json or its record, with initial weights.

        Raises:
            InvalidInputError: for an unknown key or a value out of range.
        """
        if not isinstance(config, cls.config_type):
            config = cls.config_type.from_dict(config)
        model = cls(config, operations=operations, dtype=dtype, device=device)
        model.initialize()
        return model

    def make_layers(self, config: AnyConfig, make: LayerMaker) -> None:
        """Give the model its layers, in the order of their random weights."""
        raise NotImplementedError

    def initialize(self) -> None:
        """Set initial weights where they are not those that layers make themselves."""
