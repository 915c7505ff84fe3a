"""A Latte's output written out from docs/model.md 2 to 4, one video at a time, in float64.

It shares no line with the package: weights come in as a plain mapping under the released names, and
every step is the formula with its loops. Frames are (F, S, D), S places in row-major order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Video:
    """What one video is made from: latents (4, F, h, w) and what steers them."""

    latents: Tensor
    timestep: float
    label: int | None = None
    text: Tensor | None = None
    num_images: int = 0
    image_labels: list[int] = field(default_factory=list)


def formula(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], latents: Tensor, **given: Any
) -> Tensor:
    """Return the output (B, C, F, h, w) in float64.

    Args:
        config: depth, num_heads, patch_size and what differs from the released models.
        weights: released name -> value.
        latents: (B, 4, F, h, w).
        given: timesteps (B), labels (B), text (B, ...), image_labels (B, I), num_images.
    """
    exact = {name: value.double() for name, value in weights.items()}
    videos: list[Tensor] = []
    for number, video in enumerate(latents.double()):
        labels, text = given.get("labels"), given.get("text")
        images = given.get("image_labels")
        one = Video(
            latents=video,
            timestep=float(given["timesteps"][number]),
            label=None if labels is None else int(labels[number]),
            text=None if text is None else text[number].double(),
            num_images=given.get("num_images", 0),
            image_labels=[] if images is None else images[number].tolist(),
        )
        videos.append(Formula(config, exact).output(one))
    return torch.stack(videos)


def sincos(width: int, position: float) -> Tensor:
    """2.3: all sines, then all cosines."""
    half = width // 2
    angles = [position * 10000 ** (-k / half) for k in range(half)]
    return torch.tensor(
        [math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=torch.float64
    )


def layer_norm(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def gelu_tanh(x: Tensor) -> Tensor:
    return x / 2 * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())


def turn(vectors: Tensor) -> Tensor:
    """RoFormer eq. 34 on (F, e): channels 2k and 2k + 1 turn by the frame times 10000^(-2k/e)."""
    turned = torch.empty_like(vectors)
    for frame, vector in enumerate(vectors):
        for k in range(0, len(vector), 2):
            angle = frame * 10000 ** (-k / len(vector))
            turned[frame, k] = vector[k] * math.cos(angle) - vector[k + 1] * math.sin(angle)
            turned[frame, k + 1] = vector[k] * math.sin(angle) + vector[k + 1] * math.cos(angle)
    return turned


class Formula:
    """The steps of one video; `config` holds our own names."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        self.weights = weights
        self.variant = config.get("variant", 1)
        self.patch = config["patch_size"]
        self.depth = config["depth"]
        self.heads = config["num_heads"] // (2 if self.variant == 4 else 1)
        self.tubelet = config.get("tubelet_size", 1)
        self.has_tokens = config.get("injection", "adaln") == "tokens"
        self.is_rotary = config.get("temporal_positions", "absolute") == "rotary"
        self.has_temporal = config.get("has_temporal", True)
        self.side = config["input_size"] // self.patch

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def output(self, video: Video) -> Tensor:
        """2.6, with 3 for images and 4 for variants."""
        x = self.patches(video.latents)  # F S D
        self.rows, self.columns = (n // self.patch for n in video.latents.shape[2:])
        x = x + self.spatial_table()
        clip = len(x) - video.num_images
        if self.variant == 4 and not self.is_rotary:
            x[:clip] += self.temporal_table(clip)
        time, given = self.time(video.timestep), self.given(video, clip)
        signal = [time if extra is None else time + extra for extra in given]
        if self.has_tokens:
            parts = [[time] * len(x)] + ([] if given[0] is None else [given])
            x = torch.cat([torch.stack(part)[:, None] for part in parts] + [x], dim=1)
        for index in range(self.depth):
            x = self.block(index, x, signal, clip)
        if self.has_tokens:
            x = x[:, -self.rows * self.columns :]
        final = [time] * len(x) if video.text is not None else signal
        return self.unpatchify(self.last(x, final))

    def patches(self, latents: Tensor) -> Tensor:
        """Project each patch (or tubelet) as the convolution does: (F, S, D)."""
        channels, frames, height, width = latents.shape
        p, s = self.patch, self.tubelet
        weight = self.weights["x_embedder.proj.weight"].flatten(1)
        rows: list[Tensor] = []
        for f in range(0, frames, s):
            for r in range(0, height, p):
                for c in range(0, width, p):
                    cut = latents[:, f : f + s, r : r + p, c : c + p]
                    rows.append(weight @ cut.reshape(channels * s * p * p))
        tokens = torch.stack(rows) + self.weights["x_embedder.proj.bias"]
        return tokens.view(frames // s, -1, tokens.shape[1])

    def spatial_table(self) -> Tensor:
        """The model's own table; the formula for another size: column first, then row."""
        table = self.weights["pos_embed"][0]
        if self.rows == self.columns == self.side:
            return table
        half = table.shape[1] // 2
        return torch.stack(
            [
                torch.cat([sincos(half, c), sincos(half, r)])
                for r in range(self.rows)
                for c in range(self.columns)
            ]
        )

    def temporal_table(self, frames: int) -> Tensor:
        """(F, 1, D): the model's own table; the formula for another length."""
        table = self.weights["temp_embed"][0]
        if frames != len(table):
            table = torch.stack([sincos(table.shape[1], f) for f in range(frames)])
        return table[:, None]

    def time(self, timestep: float) -> Tensor:
        """2.4: cosines first; frequencies and angles have the reference's float32 rounding."""
        frequencies = (torch.arange(128, dtype=torch.float32) * -math.log(10000) / 128).exp()
        angles = (frequencies * timestep).tolist()
        features = [math.cos(angle) for angle in angles] + [math.sin(angle) for angle in angles]
        x = torch.tensor(features, dtype=torch.float64)
        return self.linear("t_embedder.mlp.2", silu(self.linear("t_embedder.mlp.0", x)))

    def given(self, video: Video, clip: int) -> list[Tensor | None]:
        """What is added to the timestep's embedding, for each frame."""
        frames = clip + video.num_images
        if video.text is not None:
            flat = video.text.flatten()
            return [self.linear("text_embedding_projection.1", silu(flat))] * frames
        if video.label is None:
            return [None] * frames
        table = self.weights["y_embedder.embedding_table.weight"]
        labels = [video.label] * clip + (video.image_labels or [video.label] * video.num_images)
        return [table[label] for label in labels]

    def block(self, index: int, x: Tensor, signal: list[Tensor], clip: int) -> Tensor:
        """One block of the variant, frame by frame or place by place."""
        is_first_temporal = index == {1: 1, 2: self.depth // 2, 3: 0, 4: None}[self.variant]
        is_temporal = self.has_temporal and (
            index % 2 == 1 if self.variant == 1 else index >= self.depth // 2
        )
        if self.variant in (1, 2):
            if not is_temporal:
                x = self.attend(index, x, x, signal, "spatial")
                return self.feed_forward(index, x, signal)
            own, images = x[:clip], x[clip:]
            if is_first_temporal and not self.is_rotary:
                own = own + self.temporal_table(clip)
            own = self.attend(index, own, own, signal, "temporal")
            return torch.cat([self.feed_forward(index, own, signal), images])
        if self.variant == 3:
            x = self.attend(index, x, x, signal, "spatial")
            own, images = x[:clip], x[clip:]
            if is_first_temporal and not self.is_rotary:
                own = own + self.temporal_table(clip)
            own = self.attend(index, own, own, signal, "temporal", "attn_temp")
            return self.feed_forward(index, torch.cat([own, images]), signal)
        both = self.attend(index, x, x, signal, "spatial")
        own = self.attend(index, x[:clip], both[:clip], signal, "temporal", "attn_temp")
        return self.feed_forward(index, torch.cat([own, both[clip:]]), signal)

    def modulation(self, name: str, signal: Tensor, part: int) -> Tensor:
        """Part number `part` of the adaLN vector."""
        vector = self.linear(f"{name}.adaLN_modulation.1", silu(signal))
        return vector[part * len(signal) : (part + 1) * len(signal)]

    def modulated(self, name: str, x: Tensor, signal: list[Tensor], first: int) -> Tensor:
        """LN(x) (1 + scale) + shift with parts `first` and `first + 1`, for each frame."""
        if self.has_tokens:
            return layer_norm(x)
        frames = [
            layer_norm(frame) * (1 + self.modulation(name, c, first + 1))
            + self.modulation(name, c, first)
            for frame, c in zip(x, signal, strict=False)
        ]
        return torch.stack(frames)

    def gated(self, index: int, x: Tensor, update: Tensor, signal: list[Tensor], part: int):
        """x + gate * update for each frame."""
        if self.has_tokens:
            return x + update
        gates = [self.modulation(f"blocks.{index}", c, part) for c in signal[: len(x)]]
        return x + torch.stack(gates)[:, None] * update

    def attend(
        self,
        index: int,
        x: Tensor,
        target: Tensor,
        signal: list[Tensor],
        kind: str,
        name: str = "attn",
    ) -> Tensor:
        """Return target + gate * attention of modulated x."""
        tokens = self.modulated(f"blocks.{index}", x, signal, 0)
        layer = f"blocks.{index}.{name}"
        if kind == "spatial":
            update = torch.stack([self.attention(layer, frame, False) for frame in tokens])
        else:
            places = [
                self.attention(layer, tokens[:, place], self.is_rotary)
                for place in range(tokens.shape[1])
            ]
            update = torch.stack(places, dim=1)
        return self.gated(index, target, update, signal, 2)

    def attention(self, layer: str, x: Tensor, rotary: bool) -> Tensor:
        """2.5 on one sequence (T, D)."""
        width = x.shape[1]
        e = width // self.heads
        qkv = self.linear(f"{layer}.qkv", x)
        heads: list[Tensor] = []
        for head in range(self.heads):
            q, k, v = (
                qkv[:, part * width + head * e : part * width + (head + 1) * e] for part in range(3)
            )
            if rotary:
                q, k = turn(q), turn(k)
            weight = (q @ k.T / math.sqrt(e)).exp()
            heads.append(weight / weight.sum(1, keepdim=True) @ v)
        return self.linear(f"{layer}.proj", torch.cat(heads, dim=1))

    def feed_forward(self, index: int, x: Tensor, signal: list[Tensor]) -> Tensor:
        name = f"blocks.{index}"
        inner = self.linear(f"{name}.mlp.fc1", self.modulated(name, x, signal, 3))
        return self.gated(index, x, self.linear(f"{name}.mlp.fc2", gelu_tanh(inner)), signal, 5)

    def last(self, x: Tensor, signal: list[Tensor]) -> Tensor:
        """The final layer: (F, S, P*P*C)."""
        return self.linear("final_layer.linear", self.modulated("final_layer", x, signal, 0))

    def unpatchify(self, tokens: Tensor) -> Tensor:
        """Row in the patch, column in the patch, channel; then the frames of each tubelet."""
        p = self.patch
        channels = tokens.shape[2] // (p * p)
        out = tokens.new_empty(channels, len(tokens), self.rows * p, self.columns * p)
        for f, frame in enumerate(tokens):
            for place, values in enumerate(frame):
                r, c = divmod(place, self.columns)
                cell = values.view(p, p, channels).permute(2, 0, 1)
                out[:, f, r * p : (r + 1) * p, c * p : (c + 1) * p] = cell
        return out if self.tubelet == 1 else self.frames_of_tubelets(out)

    def frames_of_tubelets(self, out: Tensor) -> Tensor:
        """The transposed convolution of docs/model.md 4; each frame of a tubelet has a bias."""
        channels, s = len(out), self.tubelet
        weight = self.weights["final_layer.temporal_up.weight"].view(s, channels, channels)
        bias = self.weights["final_layer.temporal_up.bias"].view(s, channels)
        kernel = weight.permute(2, 1, 0)[..., None, None]  # C_in C_out s 1 1
        frames = torch.nn.functional.conv_transpose3d(out[None], kernel, stride=(s, 1, 1))[0]
        return frames + bias.repeat(out.shape[1], 1).T[:, :, None, None]
