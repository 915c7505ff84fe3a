"""The released key names of a LatteT2V with their shapes (docs/model.md 5.2)."""

from __future__ import annotations

from ...config.t2v import LatteT2VConfig

TIMESTEP_FEATURES = 256
ATTENTION_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")


def t2v_layout(config: LatteT2VConfig) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every weight, in the order of the released file."""
    width, patch = config.hidden_size, config.patch_size
    rows = patch * patch * config.out_channels
    layout: dict[str, tuple[int, ...]] = {"scale_shift_table": (2, width)}
    layout.update(
        {
            "pos_embed.proj.weight": (width, config.in_channels, patch, patch),
            "pos_embed.proj.bias": (width,),
        }
    )
    for number in range(config.num_layers):
        layout.update(block_layout(f"transformer_blocks.{number}.", width, ("attn1", "attn2")))
    for number in range(config.num_layers):
        layout.update(block_layout(f"temporal_transformer_blocks.{number}.", width, ("attn1",)))
    embedder = "adaln_single.emb.timestep_embedder."
    layout.update(linear(f"{embedder}linear_1", width, TIMESTEP_FEATURES))
    layout.update(linear(f"{embedder}linear_2", width, width))
    layout.update(linear("adaln_single.linear", 6 * width, width))
    layout.update(linear("caption_projection.linear_1", width, config.caption_channels))
    layout.update(linear("caption_projection.linear_2", width, width))
    layout.update(linear("proj_out", rows, width))
    return layout


def block_layout(start: str, width: int, attentions: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Return the weights of one block."""
    layout: dict[str, tuple[int, ...]] = {f"{start}scale_shift_table": (6, width)}
    for attention in attentions:
        for layer in ATTENTION_LAYERS:
            layout.update(linear(f"{start}{attention}.{layer}", width, width))
    layout.update(linear(f"{start}ff.net.0.proj", 4 * width, width))
    layout.update(linear(f"{start}ff.net.2", width, 4 * width))
    return layout


def linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    """Return weight and bias of a linear layer."""
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def t2v_modules(config: LatteT2VConfig) -> tuple[str, ...]:
    """Return the layers that have a weight, which are those a LoRA can change."""
    return tuple(
        name.removesuffix(".weight") for name in t2v_layout(config) if name.endswith(".weight")
    )
