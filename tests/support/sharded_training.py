"""Train with weights that are spread over processes: `python sharded_training.py CONFIG`.

Accelerate shards on accelerators alone, so this shards as it does, with torch's fully_shard, on the
CPU. Started once for each rank, with the variables of torchrun.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from latte_core.training.run import train
from latte_core.training.sharding import whole_of
from latte_core.training.train_config import parse_config
from latte_core.training.workers import ManyProcesses


class Sharded(ManyProcesses):
    """Processes that each hold a part of every weight."""

    def prepare(
        self, network: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        from torch.distributed.fsdp import fully_shard

        names = {id(value): name for name, value in network.named_parameters()}
        groups = [
            {**group, "params": [names[id(value)] for value in group["params"]]}
            for group in optimizer.param_groups
        ]
        transformer: Any = network.transformer
        for block in [*transformer.transformer_blocks, *transformer.temporal_transformer_blocks]:
            fully_shard(block)
        fully_shard(network)
        placed = dict(network.named_parameters())
        for group in groups:
            group["params"] = [placed[name] for name in group["params"]]
        return network, torch.optim.AdamW(groups)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(
        self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], limit: float
    ) -> float:
        norm = nn.utils.clip_grad_norm_(parameters, limit or float("inf"))
        optimizer.step()
        return float(whole_of(norm))


if __name__ == "__main__":
    train(parse_config(sys.argv[1]), workers=Sharded("float32", "cpu"))
