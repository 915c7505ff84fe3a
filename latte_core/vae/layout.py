"""Names and shapes of every weight of a VAE, from its config: what a whole file has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..types import LATENT_CHANNELS
from .config import VaeConfig

COLOURS = 3
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
ENCODER_PARTS = ("encoder.", "quant_conv.")
Layout = dict[str, tuple[int, ...]]


def vae_layout(config: VaeConfig) -> Layout:
    """Return name -> shape of every weight under diffusers' present names."""
    moments = 2 * LATENT_CHANNELS
    layout = {**encoder_layout(config), **decoder_layout(config)}
    if config.is_temporal or config.use_quant_conv:
        layout.update(conv("quant_conv", moments, moments, 1, 1))
    if not config.is_temporal and config.use_post_quant_conv:
        layout.update(conv("post_quant_conv", LATENT_CHANNELS, LATENT_CHANNELS, 1, 1))
    return layout


def encoder_layout(config: VaeConfig) -> Layout:
    """Return the encoder, which is that of an image VAE in both kinds."""
    widths = config.block_out_channels
    layout = conv("encoder.conv_in", widths[0], COLOURS, 3, 3)
    for level, width in enumerate(widths):
        start = f"encoder.down_blocks.{level}"
        entering = widths[max(level - 1, 0)]
        for number in range(config.layers_per_block):
            layout.update(
                block(f"{start}.resnets.{number}", entering if number == 0 else width, width)
            )
        if level < len(widths) - 1:
            layout.update(conv(f"{start}.downsamplers.0.conv", width, width, 3, 3))
    layout.update(middle("encoder", widths[-1], 2, is_temporal=False))
    layout.update(norm("encoder.conv_norm_out", widths[-1]))
    layout.update(conv("encoder.conv_out", 2 * LATENT_CHANNELS, widths[-1], 3, 3))
    return layout


def decoder_layout(config: VaeConfig) -> Layout:
    """Return the decoder."""
    widths = config.block_out_channels[::-1]
    mixes = config.is_temporal
    layout = conv("decoder.conv_in", widths[0], LATENT_CHANNELS, 3, 3)
    pair = config.layers_per_block if mixes else 2
    layout.update(middle("decoder", widths[0], pair, is_temporal=mixes))
    for level, width in enumerate(widths):
        start = f"decoder.up_blocks.{level}"
        entering = widths[max(level - 1, 0)]
        for number in range(config.layers_per_block + 1):
            first = entering if number == 0 else width
            layout.update(block(f"{start}.resnets.{number}", first, width, is_temporal=mixes))
        if level < len(widths) - 1:
            layout.update(conv(f"{start}.upsamplers.0.conv", width, width, 3, 3))
    layout.update(norm("decoder.conv_norm_out", widths[-1]))
    layout.update(conv("decoder.conv_out", COLOURS, widths[-1], 3, 3))
    if mixes:
        layout.update(conv("decoder.time_conv_out", COLOURS, COLOURS, 3, 1, 1))
    return layout


def middle(half: str, width: int, count: int, *, is_temporal: bool) -> Layout:
    """Return the middle block: attention and some residual blocks."""
    start = f"{half}.mid_block"
    layout = norm(f"{start}.attentions.0.group_norm", width)
    for name in ATTENTION:
        layout.update(conv(f"{start}.attentions.0.{name}", width, width))
    for number in range(count):
        layout.update(block(f"{start}.resnets.{number}", width, width, is_temporal=is_temporal))
    return layout


def block(start: str, entering: int, leaving: int, *, is_temporal: bool = False) -> Layout:
    """Return a residual block, spatial or spatio-temporal."""
    inner = f"{start}.spatial_res_block" if is_temporal else start
    layout = {**norm(f"{inner}.norm1", entering), **norm(f"{inner}.norm2", leaving)}
    layout.update(conv(f"{inner}.conv1", leaving, entering, 3, 3))
    layout.update(conv(f"{inner}.conv2", leaving, leaving, 3, 3))
    if entering != leaving:
        layout.update(conv(f"{inner}.conv_shortcut", leaving, entering, 1, 1))
    if is_temporal:
        over_time = f"{start}.temporal_res_block"
        for number in (1, 2):
            layout.update(norm(f"{over_time}.norm{number}", leaving))
            layout.update(conv(f"{over_time}.conv{number}", leaving, leaving, 3, 1, 1))
        layout[f"{start}.time_mixer.mix_factor"] = (1,)
    return layout


def norm(name: str, width: int) -> Layout:
    """Return weight and bias of a group norm."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def conv(name: str, leaving: int, entering: int, *window: int) -> Layout:
    """Return weight and bias of a convolution, or of a linear layer if it has no window."""
    return {f"{name}.weight": (leaving, entering, *window), f"{name}.bias": (leaving,)}


def has_encoder(config: VaeConfig, names: Sequence[str] | Mapping[str, object]) -> bool:
    """Return whether both the encoder and its last convolution are there, as far as needed."""
    has_last = config.use_quant_conv or config.is_temporal
    parts = ENCODER_PARTS if has_last else ENCODER_PARTS[:1]
    return all(any(name.startswith(part) for name in names) for part in parts)
