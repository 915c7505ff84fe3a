"""Initial weights of a transformer that is trained from nothing.

Blocks start idle, as in DiT: what they add is zero. With `pass_through` the denoiser also starts as
one that returns its own input, the best guess of the noise at noisy steps. At timestep 850 the
picture is 1/40 of what a network is given. One that copies its input only to within a few percent
cannot show there what it knows of the picture, and does not learn what is decided there: place and
direction. (In one run each, 300 steps of the text starter's training: the squared error at
timesteps 800 and 900 was about twenty times as large when started from zero.)
"""

from __future__ import annotations

from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from ..model.latte.transformer import Latte
from ..model.positional import CPU, integer_table, temporal_table
from ..model.t2v.transformer import LatteT2V

PASS_GAIN = 0.5  # of a patch value in the hidden state, beside tables of about 1
TABLE_FRAMES = 16


@torch.no_grad()
def initialize_text(transformer: LatteT2V, *, pass_through: bool) -> None:
    """Give a LatteT2V idle blocks; its first output is 0, or its input."""
    for module in transformer.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    spatial: list[Any] = [*transformer.transformer_blocks]
    temporal: list[Any] = [*transformer.temporal_transformer_blocks]
    for block in spatial + temporal:
        nn.init.zeros_(block.scale_shift_table)
    for block in spatial:
        nn.init.zeros_(block.attn2.to_out[0].weight)
    embedder = transformer.adaln_single.emb.timestep_embedder
    nn.init.normal_(embedder.linear_1.weight, std=0.02)
    # The last layer adds what this gives to its scale, which has to start at 1.
    nn.init.normal_(embedder.linear_2.weight, std=0.002)
    nn.init.zeros_(transformer.adaln_single.linear.weight)
    nn.init.zeros_(transformer.scale_shift_table)
    nn.init.zeros_(transformer.proj_out.weight)
    if pass_through:
        config = transformer.config
        side = config.sample_size // config.patch_size
        table = integer_table(config.hidden_size, side, side, CPU)
        frames = temporal_table(config.hidden_size, TABLE_FRAMES, CPU)
        both = (table[None] + frames[:, None]).flatten(0, 1)
        pass_input_through(transformer.pos_embed.proj.weight, transformer.proj_out.weight, both)


@torch.no_grad()
def initialize_class(transformer: Latte) -> None:
    """Let the input of a new Latte through; all else stays as in `Latte.from_config`."""
    both = (transformer.pos_embed + transformer.temp_embed.transpose(0, 1)).flatten(0, 1)
    embed = transformer.x_embedder.proj.weight
    pass_input_through(embed, transformer.final_layer.linear.weight, both)


def pass_input_through(embed: Tensor, output: Tensor, tables: Tensor) -> None:
    """Set the first and last weights so that, with idle blocks, predicted noise = input.

    The patch travels along directions in which the tables and the mean are zero, so that neither
    adds to it, and takes so small a part of the hidden state that LayerNorm scales it evenly.

    Args:
        embed: (D, C, p, p) weight of the patch embedding, overwritten.
        output: (p * p * C_out, D) weight of the last layer, channels fastest, overwritten.
        tables: (N, D) every row of the positional tables, summed as the model sums them.
    """
    width, channels, patch, _ = embed.shape
    values = patch * patch * channels
    rows = torch.cat([torch.ones(1, width), tables.float()])
    basis = cast(Tensor, torch.linalg.svd(rows)[2])  # pyright: ignore[reportUnknownMemberType]
    directions = basis[-values:]  # (p q c) D; the tables have no part in these
    spread = float(tables.float().var(dim=1, unbiased=False).mean().sqrt())
    edges = {"p": patch, "q": patch}
    first = rearrange(directions, "(p q c) d -> d c p q", **edges)
    last = rearrange(torch.zeros_like(output), "(p q c) d -> p q c d", **edges)
    last[:, :, :channels] = rearrange(directions, "(p q c) d -> p q c d", **edges)
    with torch.no_grad():
        embed.copy_(first * PASS_GAIN)
        output.copy_(rearrange(last, "p q c d -> (p q c) d") * (spread / PASS_GAIN))
