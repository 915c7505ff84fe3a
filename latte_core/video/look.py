"""What a video file says of its pixels, and the filters that make them what a person would see.

One run of ffmpeg decodes the first frame and copies some packets, which takes little time. A file
with square, opaque pixels of ordinary brightness gets no filter: its frames stay as they are.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from .ffmpeg import has_decoder, has_filter, run_probe

FIRST_STREAM = ("-map", "0:V:0", "-an", "-sn")  # V: not the cover of a recording of sound
PACKETS_LOOKED_AT = 256
LOOK = (
    *("-map", "0:V:0", "-vf", "showinfo", "-frames:v", "1", "-f", "null", "-"),
    *("-map", "0:V:0", "-c:v", "copy", "-frames:v", str(PACKETS_LOOKED_AT)),
    *("-f", "framecrc", "pipe:1"),
)
TRANSFER = re.compile(rb"color_trc:(\S+)")
ASPECT = re.compile(rb"\bsar:(\d+)/(\d+)")
PIXELS = re.compile(rb"\bfmt:(\S+)")
CODEC = re.compile(rb"^#codec_id 0: (\S+)", re.MULTILINE)
# Alpha that ordinary decoders leave out: in packets, or, to an older ffmpeg, a tag of the stream.
ALPHA_BESIDE = b"Matroska BlockAdditional"
ALPHA_TAG = re.compile(rb"^\s*alpha_mode\s*: 1\s*$", re.MULTILINE | re.IGNORECASE)
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
ALPHA_FORMATS = ("yuva", "rgba", "bgra", "argb", "abgr", "gbrap", "ya8", "ya16")
HDR = {"smpte2084": "PQ", "arib-std-b67": "HLG"}
WIDEST = Fraction(8)  # pixels further from square than this are a damaged header
UNEVEN = 0.25  # share of the usual time between frames that a time may differ
MOST_UNEVEN = 0.1  # share of such times in a video of one rate: some recorders lose a frame

# White of an HDR scene, 203 cd/m2 (ITU-R BT.2408), becomes white. Up to 0.6 of it brightness stays,
# and what is brighter, up to 1000 cd/m2, is brought into the rest.
TONE_MAP = (
    *("zscale=transfer=linear:npl=203", "format=gbrpf32le", "zscale=primaries=bt709"),
    "tonemap=mobius:param=0.6:peak=4.93:desat=0",
    *("zscale=transfer=iec61966-2-1:matrix=gbr:range=full", "format=gbrp"),
)
# (1 - c) under alpha a is (1 - c) a; inverted again it is c on white.
ON_WHITE = ("format=gbrap", "negate", "premultiply=inplace=1", "format=gbrp", "negate")

logger = logging.getLogger("latte")


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What a video file says of its pixels.

    Args:
        codec: ffmpeg's name; empty where nothing is known.
        transfer: how brightness is coded, by ffmpeg's name.
        aspect: width of a pixel for a height of 1.
        pixels: ffmpeg's name of the pixel format.
        has_alpha_beside: alpha lies in packets of its own.
        is_uneven: frames are not equally far apart in time.
    """

    codec: str = ""
    transfer: str = ""
    aspect: Fraction = Fraction(1)
    pixels: str = ""
    has_alpha_beside: bool = False
    is_uneven: bool = False

    @property
    def decoder(self) -> tuple[str, ...]:
        """Options before the input: the decoder that sees the alpha, where one is needed."""
        name = ALPHA_DECODERS.get(self.codec, "") if self.has_alpha_beside else ""
        return ("-c:v", name) if name and has_decoder(name) else ()

    @property
    def has_alpha(self) -> bool:
        """Whether pixels may be transparent; in a GIF they are white already."""
        is_format = self.pixels.startswith(ALPHA_FORMATS) and self.codec != "gif"
        return is_format or bool(self.decoder)

    @property
    def filters(self) -> tuple[str, ...]:
        """Filters that turn frames into upright, square, opaque pixels of ordinary brightness."""
        found: list[str] = []
        if self.transfer in HDR and can_tone_map():
            found += TONE_MAP
        if self.has_alpha:
            found += ON_WHITE
        if self.aspect != 1 and self._is_likely():
            size = f"max(1\\,round(iw*{self.aspect.numerator}/{self.aspect.denominator}))"
            found += [f"scale={size}:ih", "setsar=1"]
        return tuple(found)

    def tell(self) -> None:
        """Say in one line each what is done to the frames; lines of many files are the same."""
        if self.transfer in HDR:
            kind = HDR[self.transfer]
            if can_tone_map():
                logger.warning(
                    "HDR video (%s): its brightness and colours are brought to those of ordinary "
                    "screens.",
                    kind,
                )
            else:
                logger.warning(
                    "HDR video (%s): this ffmpeg cannot convert it, so that its frames look pale. "
                    "Convert it to an ordinary (BT.709) video first.",
                    kind,
                )
        if self.has_alpha:
            logger.warning("Transparent video (alpha): what is transparent is shown white.")
        elif self.has_alpha_beside:
            logger.warning(
                "Transparent video (alpha): this ffmpeg has no %s, so that colours under "
                "transparency are shown.",
                ALPHA_DECODERS.get(self.codec, "decoder for it"),
            )
        if self.aspect != 1:
            done = (
                "frames are made as wide as they are meant to be"
                if self._is_likely()
                else "that is not likely, and they are taken as square"
            )
            logger.warning(
                "The video has pixels of %d:%d, which are not square; %s.",
                self.aspect.numerator,
                self.aspect.denominator,
                done,
            )
        if self.is_uneven:
            logger.warning(
                "Variable frame rate: the frames of the video are not equally far apart in time, "
                "but are taken one after another. Convert it to one rate if movement looks uneven."
            )

    def _is_likely(self) -> bool:
        return 1 / WIDEST <= self.aspect <= WIDEST


def look_at(source: Path, given: Sequence[str]) -> Look:
    """Return what a file says of its pixels, nothing if it cannot be read.

    Args:
        source: the file, whose name alone says that a picture is none of this.
        given: ffmpeg's options to open it.
    """
    packets, shown = run_probe((*given, *LOOK))
    transfer, aspect = TRANSFER.search(shown), ASPECT.search(shown)
    pixels, codec = PIXELS.search(shown), CODEC.search(packets)
    numbers = (int(aspect[1]), int(aspect[2])) if aspect else (0, 0)
    return Look(
        codec=codec[1].decode("ascii", "replace") if codec else "",
        transfer=transfer[1].decode("ascii", "replace") if transfer else "",
        aspect=Fraction(*numbers) if all(numbers) else Fraction(1),
        pixels=pixels[1].decode("ascii", "replace") if pixels else "",
        has_alpha_beside=ALPHA_BESIDE in packets or bool(ALPHA_TAG.search(shown)),
        is_uneven=_is_uneven(_times(packets)),
    )


def can_tone_map() -> bool:
    """Whether this ffmpeg has what HDR needs."""
    return has_filter("zscale") and has_filter("tonemap")


def _times(packets: bytes) -> list[int]:
    """Return when the frames of some packets are shown, in order."""
    rows = (line.split(b",") for line in packets.splitlines() if not line.startswith(b"#"))
    return sorted(int(row[2]) for row in rows if len(row) > 2 and row[2].strip().isdigit())


def _is_uneven(times: list[int]) -> bool:
    """Whether many frames are farther from, or nearer to, the one before than is usual.

    Packets in decoding order lack some frames near their end, which is not looked at.
    """
    whole = times[: -PACKETS_LOOKED_AT // 16] if len(times) == PACKETS_LOOKED_AT else times
    gaps = sorted(b - a for a, b in zip(whole, whole[1:], strict=False))
    if len(gaps) < 2 or gaps[len(gaps) // 2] <= 0:
        return False
    usual = gaps[len(gaps) // 2]
    odd = sum(abs(gap - usual) > max(UNEVEN * usual, 1) for gap in gaps)
    return odd > MOST_UNEVEN * len(gaps)
