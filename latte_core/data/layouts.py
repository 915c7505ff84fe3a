"""Where clips lie in a folder: one convention for everybody's videos, and the published data sets.

In the layout "folder" a clip is a video, or a folder that holds its frames as pictures. Clips lie
in the folder itself, or in one sub-folder for each class. Captions are read by `captions.py`.

The layouts of the published sets follow the reference's data loaders (docs/model.md 10).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import InvalidInputError
from ..video.listing import tell_not_read
from .captions import read_captions
from .folder_contents import Contents, contents_of, relative_name
from .frame_sampling import num_needed

MAX_DEPTH = 8
UCF101_FIELDS = 4  # v_Class_gXX_cYY


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """One clip in a folder.

    Args:
        name: its place in the folder, with forward slashes.
        path: of the video, or of the folder of frames.
        pictures: the frames in order; None for a video.
        captions: what is said of it; may be empty.
        class_name: None without classes.
        problem: what is wrong with its captions; empty if nothing is. It is of no use then.
    """

    name: str
    path: Path
    pictures: tuple[Path, ...] | None = None
    captions: tuple[str, ...] = ()
    class_name: str | None = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundClips:
    """The clips of a folder.

    Args:
        layout: how they lie.
        clips: by name.
        class_names: in the order of labels; empty without classes.
    """

    layout: Layout
    clips: tuple[Clip, ...]
    class_names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How a data set lies on disk, and how its authors show it to a model.

    Args:
        name: what it is called.
        expected: one sentence for messages.
        transform: how frames become square, a name of `transforms.TRANSFORMS`.
        style: which frames are taken, a name of `frame_sampling.STYLES`.
        needs_more: clips must have more frames than one whole window.
        find: returns the clips without captions.
    """

    name: str
    expected: str
    transform: str
    style: str
    needs_more: bool = False
    find: Callable[[Path], list[Clip]]

    def num_needed(self, num_frames: int, interval: int) -> int:
        """Return how many frames a clip of this set must have to be used.

        Raises:
            InvalidInputError: for a count out of range.
        """
        needed = num_needed(num_frames=num_frames, interval=interval, style=self.style)
        return num_frames * interval + 1 if self.needs_more else needed


def find_clips(folder: Path | str, layout: str = "folder") -> FoundClips:
    """Return the clips of a folder with their captions and classes.

    Args:
        folder: of the data set.
        layout: a name of `LAYOUTS`.

    Raises:
        InvalidInputError: if there is no such folder or layout, or the folder holds no clip, or
            what it holds can be read in more than one way.
    """
    if layout not in LAYOUTS:
        raise InvalidInputError(
            f"The layout is {layout!r}, but it must be one of {', '.join(LAYOUTS)}."
        )
    root, chosen = Path(folder), LAYOUTS[layout]
    if not root.is_dir():
        raise InvalidInputError(
            f"There is no folder {root.name!r} with videos. Name the folder that holds them."
        )
    clips = sorted(chosen.find(root), key=lambda clip: clip.name)
    if not clips:
        raise InvalidInputError(
            f"{root.name} holds no clip. For the layout {layout}, {chosen.expected}."
        )
    tell_not_read(clip.path if clip.pictures else clip.path.parent for clip in clips)
    problems: dict[str, str] = {}
    captions = read_captions(root, {clip.name: clip.path for clip in clips}, problems)
    classes = sorted({clip.class_name for clip in clips if clip.class_name is not None})
    return FoundClips(
        layout=chosen,
        clips=tuple(
            replace(
                clip,
                captions=captions.get(clip.name, ()),
                problem=problems.get(clip.name, ""),
            )
            for clip in clips
        ),
        class_names=tuple(classes),
    )


def _find_in_folder(root: Path) -> list[Clip]:
    """Find videos and folders of frames, in `root` or in one folder for each class."""
    here = contents_of(root)
    if here.pictures and not here.videos and not here.folders:
        raise InvalidInputError(
            f"{root.name} holds {len(here.pictures)} pictures and no video. Put the frames of each "
            "clip into a folder of its own."
        )
    inside = {folder: contents_of(folder) for folder in here.folders}
    for folder, contents in inside.items():
        _require_clear(folder, contents)
    frames = [folder for folder, contents in inside.items() if _is_frames(contents)]
    classes = [folder for folder in inside if folder not in frames]
    if classes and (here.videos or frames):
        there = here.videos[0] if here.videos else frames[0]
        raise InvalidInputError(
            f"{root.name} can be read in two ways: {there.name} is a clip, but {classes[0].name} "
            "is a folder of clips, as for classes. Move the clips into folders of classes, or all "
            "of them out."
        )
    if not classes:
        return [*_videos(root, here), *(_frames(root, one, inside[one]) for one in frames)]
    return [clip for folder in classes for clip in _find_class(root, folder, inside[folder])]


def _find_class(root: Path, folder: Path, contents: Contents) -> Iterator[Clip]:
    """Yield the clips of one class."""
    for clip in _videos(root, contents):
        yield replace(clip, class_name=folder.name)
    for inner in contents.folders:
        deeper = contents_of(inner)
        if not _is_frames(deeper) or deeper.folders:
            raise InvalidInputError(
                f"{relative_name(root, inner)} lies two folders deep, so it must hold the frames "
                f"of one clip as pictures, but it holds {deeper.in_words}. Put clips into "
                f"{root.name} or into one folder for each class."
            )
        yield replace(_frames(root, inner, deeper), class_name=folder.name)


def _require_clear(folder: Path, contents: Contents) -> None:
    """Refuse a sub-folder that is neither one clip nor a class."""
    if contents.videos or (contents.folders and not contents.pictures):
        return
    if not contents.pictures:
        raise InvalidInputError(
            f"The sub-folder {folder.name} holds no video and no picture. Remove it, or put clips "
            "into it."
        )
    if contents.folders:
        raise InvalidInputError(
            f"The sub-folder {folder.name} can be read in two ways: it holds "
            f"{contents.in_words}. Give pictures that are frames a folder of their own."
        )


def _is_frames(contents: Contents) -> bool:
    return bool(contents.pictures) and not contents.videos


def _videos(root: Path, contents: Contents) -> list[Clip]:
    return [Clip(name=relative_name(root, path), path=path) for path in contents.videos]


def _frames(root: Path, folder: Path, contents: Contents) -> Clip:
    return Clip(name=relative_name(root, folder), path=folder, pictures=contents.pictures)


def _walk(root: Path, depth: int = 0) -> Iterator[tuple[Path, Contents]]:
    """Yield the contents of a folder and of all folders in it."""
    if depth > MAX_DEPTH:  # a link that leads back up has no end
        raise InvalidInputError(
            f"{root.name} lies more than {MAX_DEPTH} folders deep. Look for a link that leads back "
            "to a folder above it, or name a folder nearer to the clips."
        )
    contents = contents_of(root)
    yield root, contents
    for folder in contents.folders:
        yield from _walk(folder, depth + 1)


def _find_videos(root: Path) -> list[Clip]:
    """Find videos at any depth."""
    return [clip for _, contents in _walk(root) for clip in _videos(root, contents)]


def _find_ucf101(root: Path) -> list[Clip]:
    """Find videos whose class is their folder, or the second field of their name."""
    return [replace(clip, class_name=_ucf101_class(root, clip)) for clip in _find_videos(root)]


def _ucf101_class(root: Path, clip: Clip) -> str:
    if clip.path.parent != root:
        return clip.path.parent.name
    words = clip.path.stem.split("_")
    if len(words) != UCF101_FIELDS:
        raise InvalidInputError(
            f"{clip.name} does not say its class. For the layout ucf101, videos lie in a folder "
            "for each class, or are called v_Class_gXX_cYY.avi."
        )
    return words[1]


def _find_frame_folders(root: Path) -> list[Clip]:
    """Find folders of pictures at any depth."""
    return [
        _frames(root, folder, contents)
        for folder, contents in _walk(root)
        if contents.pictures and folder != root
    ]


def _layouts() -> Iterator[Layout]:
    yield Layout(
        name="folder",
        expected="videos, or folders of frames, are expected in it or in one folder for each class",
        transform="smooth",
        style="linspace",
        find=_find_in_folder,
    )
    yield Layout(
        name="faceforensics",
        expected="videos are expected at any depth",
        transform="resize_first",
        style="linspace",
        find=_find_videos,
    )
    yield Layout(
        name="ucf101",
        expected="videos are expected in one folder for each class",
        transform="resize_first",
        style="linspace",
        find=_find_ucf101,
    )
    yield Layout(
        name="skytimelapse",
        expected="folders of frames are expected at any depth",
        transform="crop_first",
        style="stride",
        needs_more=True,
        find=_find_frame_folders,
    )
    yield Layout(
        name="taichi",
        expected="folders of frames are expected at any depth",
        transform="none",
        style="stride",
        find=_find_frame_folders,
    )


LAYOUTS: Mapping[str, Layout] = {layout.name: layout for layout in _layouts()}
