"""Videos frame by frame, as bytes: files through ffmpeg, and folders of pictures."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import InvalidInputError
from .decode import decode_frames, input_arguments, open_pictures, pictures_of, unreadable
from .ffmpeg import run_decoder
from .listing import entries_of, tell_not_read
from .look import FIRST_STREAM
from .pictures import is_picture, read_picture

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".webm", ".gif", ".mov", ".mkv", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".ogv")
    + (".wmv", ".flv", ".mts", ".m2ts", ".m2t", ".vob", ".3g2", ".asf", ".f4v", ".ogm", ".mpe")
    + (".divx", ".qt", ".dv", ".mxf")
)
# Streams without a container, which say nothing of times; ffmpeg assumes 25 frames a second.
RAW_SUFFIXES = frozenset(
    (".h264", ".264", ".avc", ".h265", ".265", ".hevc", ".m1v", ".m2v", ".mpv", ".ivf", ".obu")
    + (".y4m", ".mjpeg", ".mjpg")
)
# One line of text for each packet of the file as it lies there, or for each decoded frame.
PACKETS = (*FIRST_STREAM, "-c:v", "copy", "-f", "framecrc", "pipe:1")
FRAMES = (*FIRST_STREAM, "-fps_mode", "passthrough", "-f", "framecrc", "pipe:1")
FLAGS = b"F=0x"  # of a packet, on its line
NOT_SHOWN = 4  # the flag of what is decoded for the sake of later frames: cut off, but not removed


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoSource:
    """A video on disk: a file, or a folder that holds one picture per frame.

    Args:
        name: path from the folder that was searched, with forward slashes; the folder's own name
            for pictures that lie in it directly.
        path: of the file or folder.
        pictures: of a folder, in the order of their numbers; empty for a file.
    """

    name: str
    path: Path
    pictures: tuple[Path, ...] = ()

    def frames(self) -> Iterator[Tensor]:
        """Yield every frame, (H, W, 3) uint8.

        Raises:
            InvalidInputError: for a file or picture that cannot be decoded.
            MissingDependencyError: if imageio-ffmpeg or Pillow is missing.
        """
        if self.pictures:
            return (read_picture(one) for one in self.pictures)
        return decode_frames(self.path)

    def count(self) -> int:
        """Return how many frames there are; a file is decoded for it.

        Raises:
            InvalidInputError: for a file that cannot be decoded to its end.
        """
        found = len(self.pictures) or len(_lines(self.path, FRAMES))
        if not found:
            raise unreadable(self.path)
        return found

    def count_listed(self) -> int:
        """Return how many frames the file says it has, without decoding; 0 if it does not say.

        Frames that a cut without encoding left in for the sake of others are not among them.
        Nearly always they are those that `count` finds.
        """
        return len(self.pictures) or sum(map(_is_shown, _lines(self.path, PACKETS)))

    def pick(self, indices: Collection[int]) -> list[Tensor]:
        """Return the frames with these numbers, in order; fewer if the video ends before.

        Args:
            indices: from 0, in any order, without repetition.
        """
        wanted = sorted(indices)
        if not wanted:
            return []
        if self.pictures:
            return [read_picture(self.pictures[i]) for i in wanted if i < len(self.pictures)]
        return _pick_evenly(self.path, wanted) or self._pick_from_all(wanted)

    def _pick_from_all(self, wanted: Sequence[int]) -> list[Tensor]:
        """Decode from the start to the last of these frames."""
        found: list[Tensor] = []
        with closing(decode_frames(self.path)) as frames:
            for index, frame in enumerate(frames):
                if index == wanted[len(found)]:
                    found.append(frame)
                if len(found) == len(wanted):
                    break
        return found


def find_videos(folder: Path) -> list[VideoSource]:
    """Return every video file below a folder, and every folder with pictures, sorted by name.

    What is hidden, unfinished or left behind by a system is not among them (`listing.py`).

    Raises:
        InvalidInputError: if there is no such folder, or no video in it.
    """
    if not folder.is_dir():
        raise InvalidInputError(f"There is no folder {folder.name!r} to read videos from.")
    found = sorted(_search(folder, folder, set()), key=lambda source: source.name)
    if not found:
        raise InvalidInputError(
            f"{folder.name} holds no videos. Give a folder of video files "
            "(mp4, webm, gif, mov, mkv, avi and others), or of folders with one picture per frame."
        )
    tell_not_read(one.path if one.pictures else one.path.parent for one in found)
    return found


def is_video_name(path: Path) -> bool:
    """Whether a file's name says that it is a video, or a stream without a container."""
    return path.suffix.lower() in VIDEO_SUFFIXES | RAW_SUFFIXES


def _search(folder: Path, root: Path, seen: set[Path]) -> Iterator[VideoSource]:
    """Yield the videos of a folder; links are followed, and a folder is entered once."""
    if folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    entries = entries_of(folder)
    pictures = tuple(one for one in entries if is_picture(one) and one.is_file())
    if pictures:
        name = folder.relative_to(root).as_posix()
        yield VideoSource(name=folder.name if name == "." else name, path=folder, pictures=pictures)
    for entry in entries:
        if entry.is_dir():
            yield from _search(entry, root, seen)
        elif is_video_name(entry) and entry.is_file():
            yield VideoSource(name=entry.relative_to(root).as_posix(), path=entry)


def _lines(source: Path, output: tuple[str, ...]) -> list[bytes]:
    """Return the lines but comments that ffmpeg writes, none if it does not end well."""
    lines = run_decoder((*input_arguments(source), *output)).splitlines()
    return [line for line in lines if not line.startswith(b"#")]


def _is_shown(packet: bytes) -> bool:
    """Return whether the frame of a line of `PACKETS` is shown."""
    fields = (field.strip() for field in packet.split(b","))
    flags = next((field.removeprefix(FLAGS) for field in fields if field.startswith(FLAGS)), b"0")
    return not int(flags, 16) & NOT_SHOWN


def _pick_evenly(source: Path, wanted: Sequence[int]) -> list[Tensor]:
    """Return frames that are equally far apart; nothing for others, or if none of them is there.

    ffmpeg leaves the others out itself, so that they are neither converted nor handed over.
    """
    first, last = wanted[0], wanted[-1]
    step = wanted[1] - first if len(wanted) > 1 else 1
    if list(wanted) != list(range(first, last + 1, step)):
        return []
    chosen = f"select=between(n\\,{first}\\,{last})*not(mod(n-{first}\\,{step}))"
    with open_pictures(source, choose=chosen, most=len(wanted)) as decoder:
        found = list(pictures_of(decoder))
        if found and len(found) < len(wanted) and not decoder.ended_well():
            raise unreadable(source)
    return found
