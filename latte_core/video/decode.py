"""The frames of a video file one after another, as a person would see them: through ffmpeg."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ..checks import MAX_PIXELS
from ..errors import UnreadableMediaError
from .ffmpeg import Decoder, open_decoder, run_decoder
from .look import FIRST_STREAM, look_at

# A file may not make ffmpeg open other files or the network, as playlists do. Frames that could
# fill the memory are refused by ffmpeg itself.
FORMATS = (
    "mov,matroska,gif,png_pipe,avi,mpeg,mpegts,ogg,asf,flv,mxf,dv,"
    "h264,hevc,mpegvideo,m4v,ivf,obu,av1,yuv4mpegpipe,mjpeg"
)
SAFE_INPUT = (
    *("-protocol_whitelist", "file", "-format_whitelist", FORMATS),
    *("-max_pixels", str(MAX_PIXELS**2)),
)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Every frame as a PPM picture: a header with its size, then RGB bytes.
PICTURES = (
    *FIRST_STREAM,
    *("-fps_mode", "passthrough", "-c:v", "ppm", "-pix_fmt", "rgb24", "-f", "image2pipe", "pipe:1"),
)
ONE_PACKET = ("-c", "copy", "-f", "framecrc", "pipe:1")
SizeCheck = Callable[[int, int], None]
"""Is told width and height of each frame, and raises for what is too large."""


def input_arguments(source: Path) -> tuple[str, ...]:
    """Return ffmpeg's options to open a file, and nothing but that file.

    Raises:
        UnreadableMediaError: if it cannot be opened.
    """
    return (*SAFE_INPUT, *_forced_format(source), "-i", f"file:{source.resolve()}")


@contextmanager
def open_pictures(
    source: Path, *, choose: str = "", most: int | None = None, is_quiet: bool = False
) -> Generator[Decoder]:
    """Start ffmpeg, which writes the frames of a file as PPM pictures.

    Args:
        source: the file.
        choose: a filter that leaves frames out.
        most: frames to decode; all of them if left out.
        is_quiet: say nothing of what is done to the frames, as it was said before.
    """
    given = input_arguments(source)
    look = look_at(source, given)
    if not is_quiet:
        look.tell()
    chain = ",".join(filter(None, (choose, *look.filters)))
    filters = ("-vf", chain) if chain else ()
    limit = () if most is None else ("-frames:v", str(most))
    with open_decoder((*look.decoder, *given, *filters, *limit, *PICTURES)) as decoder:
        yield decoder


def decode_frames(
    source: Path, *, most: int | None = None, check: SizeCheck | None = None
) -> Generator[Tensor]:
    """Yield the frames of a video file, (H, W, 3) uint8.

    Args:
        source: the file.
        most: frames to decode; what follows them is not looked at.
        check: of their size, before one is read.

    Raises:
        UnreadableMediaError: if it cannot be decoded, or not to its end.
        MissingDependencyError: if imageio-ffmpeg is missing.
    """
    with open_pictures(source, most=most) as decoder:
        count = 0
        for frame in pictures_of(decoder, check):
            count += 1
            yield frame
        if not decoder.ended_well() or count == 0:
            raise unreadable(source)


def pictures_of(decoder: Decoder, check: SizeCheck | None = None) -> Iterator[Tensor]:
    """Yield the PPM pictures that ffmpeg writes; if it dies, its exit code tells."""
    stream = decoder.output
    while stream.readline():
        width, height = (int(word) for word in stream.readline().split())
        stream.readline()  # the largest value, 255
        if check is not None:
            check(width, height)
        values = bytearray(stream.read(height * width * 3))
        if len(values) < height * width * 3:
            return
        yield torch.frombuffer(values, dtype=torch.uint8).view(height, width, 3)


def unreadable(source: Path) -> UnreadableMediaError:
    """Return the error for a file that ffmpeg does not decode to its end, with the reason."""
    is_sound = not _first_packet(source, FIRST_STREAM) and _first_packet(source, ("-map", "0:a:0"))
    if is_sound:
        return UnreadableMediaError(
            f"{source.name} cannot be read as a video: it holds sound, but no picture."
        )
    return UnreadableMediaError(
        f"{source.name} cannot be read as a video to its end. It may be damaged, cut short, larger "
        f"than {MAX_PIXELS} x {MAX_PIXELS} pixels, or of a kind that is not supported; mp4, webm, "
        "gif, png, mov, mkv and avi are."
    )


def _first_packet(source: Path, stream: Sequence[str]) -> bytes:
    return run_decoder((*input_arguments(source), *stream, "-frames", "1", *ONE_PACKET))


def _forced_format(source: Path) -> tuple[str, ...]:
    """Name the format of a PNG, whose file name ffmpeg might read as a pattern (`50%d.png`)."""
    try:
        with source.open("rb") as handle:
            return ("-f", "png_pipe") if handle.read(8) == PNG_SIGNATURE else ()
    except OSError as error:
        raise UnreadableMediaError(
            f"{source.name} cannot be opened: {error.strerror}. Check its permissions."
        ) from error
