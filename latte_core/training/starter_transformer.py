"""Train the text starter's transformer on latents of drawn clips, under a frozen text encoder."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..config import LatteT2VConfig
from ..model.latte_t2v import LatteT2V
from ..model.positional import CPU, integer_table, temporal_table
from .drawing import CLIP_FRAMES, make_caption
from .starter_clips import POOL_SIZE, clip_spec
from .starter_init import pass_input_through
from .starter_loop import Batch, Stage, StarterTrainer
from .starter_text import TEXT_WIDTH

STARTER_CONFIG = LatteT2VConfig(
    num_layers=4,
    num_attention_heads=5,
    attention_head_dim=32,
    cross_attention_dim=160,
    caption_channels=TEXT_WIDTH,
    sample_size=8,
)
EMPTY_CAPTIONS = 0.1
PADDED_CAPTIONS = 0.2  # captions whose padding rows are attended to, as in a cut negative prompt


class TextToVideo(nn.Module):
    """The transformer, which is trained, beside the text encoder, which is not."""

    def __init__(self, text_encoder: nn.Module, config: LatteT2VConfig) -> None:
        super().__init__()
        self.text_encoder = text_encoder.eval().requires_grad_(False)
        self.transformer = LatteT2V.from_config(config)

    def forward(self, batch: Batch, ids: Tensor, mask: Tensor, seen: Tensor) -> Tensor:
        """Predict noise (B, 4, F, h, w); T5 sees the rows of `mask`, cross-attention of `seen`."""
        with torch.no_grad():
            context = self.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        output = self.transformer(
            batch.noisy, batch.timesteps, context, seen, frame_positions=batch.positions
        )
        return output[:, :4]


@torch.no_grad()
def initialize(transformer: LatteT2V) -> None:
    """Start as DiT does, with idle blocks, but let the input through (see `starter_init.py`)."""
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
    config = transformer.config
    side = config.sample_size // config.patch_size
    table = integer_table(config.hidden_size, side, side, CPU)
    frames = temporal_table(config.hidden_size, CLIP_FRAMES, CPU)
    both = (table[None] + frames[:, None]).flatten(0, 1)
    pass_input_through(transformer.pos_embed.proj.weight, transformer.proj_out.weight, both)


def outer_layers(transformer: LatteT2V) -> list[nn.Parameter]:
    """Return the weights through which the input is copied, see `StarterTrainer`."""
    ends = [transformer.pos_embed, transformer.proj_out]
    return [transformer.scale_shift_table, *(value for end in ends for value in end.parameters())]


def tokenize(
    tokenizer: Any, captions: Sequence[str], rng: random.Random
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, the encoder's mask and the rows cross-attention sees, each (B, L)."""
    texts = ["" if rng.random() < EMPTY_CAPTIONS else caption for caption in captions]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    seen = batch.attention_mask.clone()
    for row in range(len(texts)):
        if rng.random() < PADDED_CAPTIONS:
            length = rng.randint(int(seen[row].sum()), seen.shape[1])
            seen[row, :length] = 1
    return batch.input_ids, batch.attention_mask, seen


def make_text_trainer(
    vae: Any,
    tokenizer: Any,
    text_encoder: nn.Module,
    stages: Sequence[Stage],
    *,
    seed: int,
    pool_size: int = POOL_SIZE,
    start_from: Mapping[str, Tensor] | None = None,
) -> StarterTrainer:
    """Return a trainer of a `TextToVideo`.

    Args:
        vae, stages, seed, pool_size: see `StarterTrainer`.
        tokenizer, text_encoder: read the captions.
        start_from: weights of a transformer to go on from.
    """
    torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
    network = TextToVideo(text_encoder, STARTER_CONFIG)
    if start_from is None:
        initialize(network.transformer)
    else:
        network.transformer.load_state_dict(start_from)

    def predict(module: nn.Module, batch: Batch) -> Tensor:
        specs = [clip_spec(seed, number) for number in batch.numbers]
        captions = [make_caption(spec, batch.rng) for spec in specs]
        return module(batch, *tokenize(tokenizer, captions, batch.rng))

    outer = outer_layers(network.transformer)
    return StarterTrainer(
        network, predict, vae, stages, seed=seed, outer=outer, pool_size=pool_size
    )
