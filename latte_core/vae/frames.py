"""Latents to frames and back, with diffusers' image VAE or its temporal-decoder VAE.

The temporal decoder sees up to 16 frames of one video at a time, and of longer ones pieces in their
surroundings (`pieces.py`). The reference decodes chunks of 14 frames without (`chunk=14`), also
across the videos of a batch, which is not offered.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..checks import MAX_FRAMES, check_integer
from ..devices import is_out_of_memory
from ..errors import IncompatibleInputsError, NonFiniteError
from ..files import read_json
from ..meta_modules import TensorReader
from .build import build_vae
from .checks import PieceCallback, Progress, check_frames, check_latents, check_tile
from .config import VaeConfig
from .found import check_scale
from .pieces import (
    CELLS_AT_ONCE,
    ClipSize,
    Decoder,
    Plans,
    free_bytes,
    free_cached_memory,
    plan_by_size,
)
from .tiling import DecodePlan, count_pieces, decode_in_pieces

logger = logging.getLogger("latte")


class VideoVAE:
    """A VAE that works on videos.

    Args:
        module: diffusers' AutoencoderKL or AutoencoderKLTemporalDecoder with weights.
        config: its shape.
        channels_last: decode with the channels of a pixel side by side in memory, as convolutions
            of accelerators prefer; the same but for rounding. Left out: everywhere but on the CPU.
            The temporal decoder, whose convolutions also go along time, never does.
    """

    def __init__(
        self, module: Any, config: VaeConfig, *, channels_last: bool | None = None
    ) -> None:
        self.module = module
        self.config = config
        self._channels_last = channels_last

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        config: Mapping[str, Any] | VaeConfig | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> VideoVAE:
        """Build a VAE from weights under any names of `names.py`: diffusers' or the original ones.

        Weights without an encoder, or without its last convolution (SVD files), give a VAE that
        only decodes.

        Args:
            tensors: the weights.
            config: a config.json; read from the shapes when left out.
            dtype: to run in.
            device: to run on.

        Raises:
            UnknownArchitectureError: if it is the VAE of another model.
            WeightMismatchError: if weights and config do not fit.
            MissingDependencyError: if diffusers is not installed.
        """
        return cls(*build_vae(tensors, config, dtype, device))

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        *,
        read: TensorReader,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> VideoVAE:
        """Load `vae/` or `vae_temporal_decoder/` of a Latte folder.

        Args:
            folder: holds config.json and the weights.
            read: opens a folder's weights safely.
            dtype: to run in.
            device: to run on.

        Raises:
            CorruptCheckpointError: if a file is missing or unreadable.
            UnknownArchitectureError: as in `from_tensors`.
        """
        path = Path(folder)
        config = VaeConfig.from_dict(read_json(path / "config.json"))
        check_scale(config.scaling_factor)
        return cls.from_tensors(read(path), config, dtype=dtype, device=device)

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        read: TensorReader,
        config: Mapping[str, Any] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> VideoVAE:
        """Load a single file; the shape is read from it without `config`."""
        return cls.from_tensors(read(Path(path)), config, dtype=dtype, device=device)

    @property
    def is_temporal(self) -> bool:
        """True if the decoder looks along time."""
        return self.config.is_temporal

    @property
    def can_encode(self) -> bool:
        """False for files that hold the decoder only."""
        return self.module.encoder is not None

    @property
    def scaling_factor(self) -> float:
        """latents = VAE output * scaling_factor."""
        return float(self.config.scaling_factor)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._weight().device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self._weight().dtype

    def to(self, device: torch.device | str) -> VideoVAE:
        """Move the weights and return self."""
        self.module.to(device)
        return self

    @torch.no_grad()
    def decode(
        self,
        latents: Tensor,
        *,
        chunk: int | None = None,
        tile: int | None = None,
        callback: PieceCallback | None = None,
    ) -> Tensor:
        """Decode videos, each by itself.

        Where memory is short, fewer frames are decoded at a time, then tiles, with one line in the
        log. If half precision gives NaN, everything is decoded once more in float32.

        Args:
            latents: (B, 4, F, h, w), scaled.
            chunk: frames at a time. Left out, the size of the clip decides (`plan_by_size`). 14 is
                the reference; as many as there are decodes the clip whole.
            tile: edge of a tile in pixels, a multiple of 8; left out, frames are decoded whole.
            callback: called after each piece.

        Returns:
            (B, F, H, W, 3) float32 on the CPU, in [0, 1].

        Raises:
            IncompatibleInputsError: if the latents have another number of channels or axes.
            InvalidInputError: if `chunk` or `tile` is out of range.
            NonFiniteError: if latents or frames are NaN or infinite, in float32 too.
        """
        check_latents(latents)
        clip = ClipSize.of(latents)
        plan = self._plan(clip, chunk, tile)
        progress = Progress(callback)

        def run() -> Tensor:
            return self._decode_videos(latents, clip, plan, progress)

        return self._retry_in_float32(run)

    @torch.no_grad()
    def encode(
        self,
        frames: Tensor,
        *,
        generator: torch.Generator | None = None,
        chunk: int | None = None,
        callback: PieceCallback | None = None,
    ) -> Tensor:
        """Encode videos frame by frame.

        Args:
            frames: (B, F, H, W, 3) in [0, 1], height and width multiples of 8.
            generator: draws one sample of the posterior; left out, its mode is taken.
            chunk: frames at a time; the result does not depend on it.
            callback: called after each piece.

        Returns:
            (B, 4, F, h, w) float32 on the CPU, scaled.

        Raises:
            IncompatibleInputsError: if the frames have the wrong axes, or the VAE cannot encode.
            InvalidInputError: if the size is no multiple, or values lie outside [0, 1].
            NonFiniteError: if the latents are NaN or infinite, in float32 too.
        """
        if not self.can_encode:
            raise IncompatibleInputsError(
                "This VAE only decodes: its file holds no encoder. Encode with the image VAE."
            )
        check_frames(frames, self.config.compression)
        pixels = rearrange(frames, "b f h w c -> (b f) c h w")
        cells = pixels.shape[2] * pixels.shape[3] // self.config.compression**2
        at_once = max(1, CELLS_AT_ONCE // cells)
        if chunk is not None:
            at_once = check_integer("chunk", chunk, 1, MAX_FRAMES)
        at_once = min(at_once, len(pixels))
        progress = Progress(callback)

        def run() -> Tensor:
            return self._encode_frames(pixels, at_once, progress)

        moments = self._retry_in_float32(run)
        mean, log_variance = moments.chunk(2, dim=1)
        if generator is not None:
            noise = torch.randn(mean.shape, generator=generator, device=generator.device)
            mean = mean + (0.5 * log_variance.clamp(-30, 20)).exp() * noise.cpu()
        return rearrange(mean * self.scaling_factor, "(b f) c h w -> b c f h w", b=len(frames))

    def _plan(self, clip: ClipSize, chunk: int | None, tile: int | None) -> DecodePlan:
        """Return the plan that the size of the clip and the caller's wishes make."""
        size = self.config.compression
        if tile is not None:
            check_tile(tile, size)
        if chunk is not None:
            chunk = min(check_integer("chunk", chunk, 1, MAX_FRAMES), clip.num_frames)
        cells = tile // size if tile is not None else None
        plan = plan_by_size(clip, self._decoder, chunk=chunk, tile=cells)
        if chunk is not None and plan.chunk < chunk:
            logger.warning(
                "%d frames of this size are more than a decoder can count at once: decoding %d at "
                "a time.",
                chunk,
                plan.chunk,
            )
        return plan

    @property
    def _decoder(self) -> Decoder:
        """What plans have to know of the decoder."""
        return Decoder.of(self.config.block_out_channels, is_temporal=self.is_temporal)

    def _decode_videos(
        self, latents: Tensor, clip: ClipSize, first_plan: DecodePlan, progress: Progress
    ) -> Tensor:
        """Decode all videos with the first plan that fits into memory."""
        plans = Plans(first_plan, clip, self._decoder)
        plans.fit(self.dtype.itemsize, free_bytes(self.device))
        videos = list[Tensor]()
        for latent_frames in rearrange(latents, "b c f h w -> b f c h w"):

            def decode(plan: DecodePlan, given: Tensor = latent_frames) -> Tensor:
                pieces = count_pieces(plan, clip.num_frames, clip.height, clip.width)
                progress.restart(len(videos) * pieces, len(latents) * pieces)
                return self._decode_video(given, plan, progress)

            videos.append(plans.run(decode, free_cached_memory))
        if plans.is_smaller:
            _tell_smaller_plan(plans.now, self.config.compression)
        return torch.stack(videos)

    def _decode_video(self, latent_frames: Tensor, plan: DecodePlan, progress: Progress) -> Tensor:
        """Decode (F, 4, h, w) to (F, H, W, 3)."""

        def decode_piece(piece: Tensor) -> Tensor:
            pixels = self._decode_call(piece)
            progress.step()
            return pixels

        frames = decode_in_pieces(decode_piece, latent_frames, plan, self.config.compression)
        return frames.mul_(0.5).add_(0.5).clamp_(0, 1)

    def _decode_call(self, latents: Tensor) -> Tensor:
        """Run the decoder once: (N, 4, h, w) scaled -> (N, 3, H, W) float32 on the CPU."""
        raw = (latents.float() * (1 / self.scaling_factor)).to(self.device, self.dtype)
        if self._is_channels_last():
            self.module.decoder.to(memory_format=torch.channels_last)
            raw = raw.contiguous(memory_format=torch.channels_last)
        options = {"num_frames": len(raw)} if self.is_temporal else {}
        pixels: Tensor = self.module.decode(raw, **options).sample
        return self._finite(pixels.float(), "decoded frames").cpu()

    def _is_channels_last(self) -> bool:
        """Return whether the decoder works with channels last."""
        if self.is_temporal:
            return False
        on_accelerator = self.device.type != "cpu"
        return on_accelerator if self._channels_last is None else self._channels_last

    def _encode_frames(self, pixels: Tensor, at_once: int, progress: Progress) -> Tensor:
        """Encode (N, 3, H, W) in [0, 1] to the posterior's (N, 8, h, w)."""
        moments: list[Tensor] = []
        done, first = 0, at_once
        while done < len(pixels):
            some = pixels[done : done + at_once]
            encoded = self._encode_call(some) if at_once == 1 else self._try_encode(some)
            if encoded is None:
                free_cached_memory()
                at_once = -(-at_once // 2)
                continue
            moments.append(encoded)
            done += len(some)
            progress.restart(done - 1, len(pixels))
            progress.step()
        if at_once != first:
            logger.warning("Not enough memory: encoded %d frames at a time.", at_once)
        return torch.cat(moments)

    def _try_encode(self, pixels: Tensor) -> Tensor | None:
        """Return the moments, or None if memory ran out."""
        try:
            return self._encode_call(pixels)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _encode_call(self, pixels: Tensor) -> Tensor:
        """Run the encoder once: (N, 3, H, W) in [0, 1] -> (N, 8, h, w) float32 on the CPU."""
        centered = (pixels.float() * 2 - 1).to(self.device, self.dtype)
        moments: Tensor = self.module.encode(centered).latent_dist.parameters
        return self._finite(moments.float(), "encoded latents").cpu()

    def _finite(self, values: Tensor, what: str) -> Tensor:
        if torch.isfinite(values).all():
            return values
        if self.dtype != torch.float32:
            raise _HalfPrecisionOverflow
        raise NonFiniteError(
            f"The VAE's {what} are NaN or infinite, in float32 too. Check that the VAE belongs to "
            "this model and that its file is whole."
        )

    def _retry_in_float32(self, run: Callable[[], Tensor]) -> Tensor:
        """Run once more in float32 if half precision overflowed."""
        try:
            return run()
        except _HalfPrecisionOverflow:
            pass
        logger.warning("The VAE overflowed in %s; doing it once more in float32.", self.dtype)
        with self._as_float32():
            return run()

    @contextmanager
    def _as_float32(self) -> Generator[None]:
        dtype = self.dtype
        nn.Module.to(self.module, torch.float32)  # diffusers' own `to` warns
        try:
            yield
        finally:
            nn.Module.to(self.module, dtype)  # exact: every half-precision number is a float32

    def _weight(self) -> Tensor:
        weight: Tensor = self.module.decoder.conv_in.weight
        return weight


class _HalfPrecisionOverflow(NonFiniteError):
    """Half precision gave NaN or infinity; float32 may not."""


def _tell_smaller_plan(plan: DecodePlan, size: int) -> None:
    tiles = f" in tiles of {plan.tile * size} pixels" if plan.tile is not None else ""
    logger.warning("Not enough memory: decoded %d frames at a time%s.", plan.chunk, tiles)
