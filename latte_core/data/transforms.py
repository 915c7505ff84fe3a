"""From decoded frames to the frames a model learns from: mirrored, resized, cropped.

Four ways, each on a whole clip. The reference resizes without antialiasing, which makes large
videos grainy; "smooth" differs from "resize_first" in that alone.

smooth         short side to the target by antialiased bilinear resizing, then the centre
resize_first   the same without antialiasing: FaceForensics, UCF101
crop_first     the centre in the target's proportions, then resized without antialiasing: Sky
none           as it is; another size is refused: Taichi-HD
"""

from __future__ import annotations

from dataclasses import dataclass

from einops import rearrange
from torch import Tensor
from torch.nn import functional

from ..checks import check_size
from ..errors import InvalidInputError
from ..video import frames_from_bytes

TRANSFORMS = ("smooth", "resize_first", "crop_first", "none")


@dataclass(frozen=True, kw_only=True, slots=True)
class Transform:
    """Turns frames into frames of one size.

    Args:
        kind: a name of `TRANSFORMS`.
        height, width: to make, in pixels, multiples of 16.

    Raises:
        InvalidInputError: for another kind or size.
    """

    kind: str
    height: int
    width: int

    def __post_init__(self) -> None:
        check_size("height", self.height)
        check_size("width", self.width)
        if self.kind not in TRANSFORMS:
            raise InvalidInputError(
                f"The transform is {self.kind!r}, but it must be one of {', '.join(TRANSFORMS)}."
            )

    def __call__(self, frames: Tensor, *, flipped: bool = False) -> Tensor:
        """Return (F, height, width, 3) float32 in [0, 1] from (F, H, W, 3) uint8.

        Args:
            frames: of one clip, or one of its frames.
            flipped: mirror them left to right, first.

        Raises:
            InvalidInputError: for "none", if the frames have another size.
        """
        pixels = frames_from_bytes(rearrange(frames, "f h w c -> f c h w"))
        pixels = pixels.flip(-1) if flipped else pixels
        if self.kind == "none":
            self._require_size(pixels)
        elif self.kind == "crop_first":
            pixels = self._resize(self._crop_to_proportions(pixels))
        else:
            pixels = self._crop(self._cover(pixels), self.height, self.width)
        return rearrange(pixels, "f c h w -> f h w c").contiguous()

    def _cover(self, pixels: Tensor) -> Tensor:
        """Resize so that the target fits in, one side exactly."""
        height, width = pixels.shape[-2:]
        scale = max(self.height / height, self.width / width)
        if self.kind == "resize_first" and self._fits(int(height * scale), int(width * scale)):
            # parity: the reference hands over the factor, which places the samples of the longer
            # side by it, not by the ratio of whole sizes
            return functional.interpolate(pixels, scale_factor=scale, mode="bilinear")
        size = (max(self.height, int(height * scale)), max(self.width, int(width * scale)))
        return self._interpolate(pixels, size)

    def _fits(self, height: int, width: int) -> bool:
        """Whether rounding has not made a side one pixel too short."""
        return height >= self.height and width >= self.width

    def _resize(self, pixels: Tensor) -> Tensor:
        return self._interpolate(pixels, (self.height, self.width))

    def _interpolate(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        if pixels.shape[-2:] == size:
            return pixels
        is_smooth = self.kind == "smooth"
        resized = functional.interpolate(pixels, size=size, mode="bilinear", antialias=is_smooth)
        return resized.clamp(0, 1)

    def _crop_to_proportions(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        scale = min(height / self.height, width / self.width)
        cut = (max(1, round(self.height * scale)), max(1, round(self.width * scale)))
        return self._crop(pixels, *cut)

    @staticmethod
    def _crop(pixels: Tensor, height: int, width: int) -> Tensor:
        """Cut out the centre; half a pixel is rounded to the even place, as in the reference."""
        top = round((pixels.shape[-2] - height) / 2)
        left = round((pixels.shape[-1] - width) / 2)
        return pixels[..., top : top + height, left : left + width]

    def _require_size(self, pixels: Tensor) -> None:
        height, width = pixels.shape[-2:]
        if (height, width) != (self.height, self.width):
            raise InvalidInputError(
                f"Frames of {width} x {height} pixels cannot be used as they are: this layout "
                f"takes {self.width} x {self.height}. Choose that size, or another layout."
            )
