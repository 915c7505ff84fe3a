"""Say in words what a drawn clip shows, in wordings that are trained on and in others.

A caption is made of phrases; each knows which object it speaks of and what the caption says about
that object, so that a text encoder can be taught, and asked, what belongs together.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .caption_forms import (
    BACKGROUND_FORMS,
    BOTH_FORMS,
    HELD_OUT_MOVING,
    HELD_OUT_STILL,
    MOVING,
    PAIR_FORMS,
    PAIR_JOINTS,
    PARTIAL_LOOKS,
    PARTIAL_MOVING,
    PARTIAL_STILL,
    STILL,
    VERBS,
    WAYS,
)
from .scene_parts import (
    BACKGROUNDS,
    COLORS,
    DEFAULT_BACKGROUND,
    DEFAULT_SIZE,
    SHAPES,
    SIZES,
    ClipSpec,
    ObjectSpec,
)

PLAIN_SHARE = 0.35
PARTIAL_SHARE = 0.12
NAMED_DEFAULT = 0.06  # captions that name the default background


@dataclass(frozen=True, kw_only=True, slots=True)
class Phrase:
    """A part of a caption.

    Args:
        text: with its spaces; the texts of all phrases are the caption.
        owner: index of the object it speaks of; None for the background and joining words.
        said: what the whole caption says about that object: "color", "shape", "direction" and
            "size" with their values, only those that are said.
    """

    text: str
    owner: int | None = None
    said: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, kw_only=True, slots=True)
class Caption:
    """A caption in phrases; `background` is the name it says, or None."""

    phrases: tuple[Phrase, ...]
    background: str | None

    @property
    def text(self) -> str:
        """The words."""
        return "".join(phrase.text for phrase in self.phrases)


def fill(form: str, thing: ObjectSpec, verb: int, way: str) -> str:
    """Put the words of one object into a form of `caption_forms.py`."""
    moving, moves, move = VERBS[verb]
    size = "" if thing.size_name == DEFAULT_SIZE else f"{thing.size_name} "
    values = {"color": thing.color, "shape": thing.shape, "size": size, "way": way}
    return form.format(
        look=f"{size}{thing.color} {thing.shape}", moving=moving, moves=moves, move=move, **values
    )


def say_object(form: str, thing: ObjectSpec, rng: random.Random | None) -> str:
    """Fill a form with the plain verb and direction word, or, with `rng`, with any."""
    if thing.direction == "still":
        return fill(form, thing, 0, "")
    if rng is None:
        return fill(form, thing, 0, thing.direction)
    return fill(form, thing, rng.randrange(len(VERBS)), rng.choice(WAYS[thing.direction]))


def what_is_said(form: str, thing: ObjectSpec) -> dict[str, str]:
    """Return what a filled form says about the object."""
    said: dict[str, str] = {}
    if "{look}" in form or "{color}" in form:
        said["color"] = thing.color
    if "{look}" in form or "{shape}" in form:
        said["shape"] = thing.shape
    if ("{look}" in form or "{size}" in form) and thing.size_name != DEFAULT_SIZE:
        said["size"] = thing.size_name
    if thing.direction != "still" and "{way}" in form:
        said["direction"] = thing.direction
    if thing.direction == "still" and form not in PARTIAL_LOOKS and form != "a {look}":
        said["direction"] = "still"
    return said


def choose_form(moving: Sequence[str], still: Sequence[str], thing: ObjectSpec) -> Sequence[str]:
    """Return the forms that fit how the object moves."""
    return still if thing.direction == "still" else moving


def say_single(thing: ObjectSpec, rng: random.Random) -> list[Phrase]:
    """Describe a single object: often plainly, else in another wording, sometimes only in part."""
    draw = rng.random()
    full = choose_form(MOVING, STILL, thing)
    if not thing.is_named:
        return [phrase_of(form_apart(thing), thing, 0, rng)]
    if draw < PLAIN_SHARE:
        return [phrase_of(full[0], thing, 0, None)]
    if draw < 1 - PARTIAL_SHARE:
        return [phrase_of(rng.choice(full), thing, 0, rng)]
    some = PARTIAL_LOOKS + tuple(choose_form(PARTIAL_MOVING, PARTIAL_STILL, thing))
    if thing.size_name != DEFAULT_SIZE:  # an object of another size is never called without it
        some = tuple(form for form in some if "{look}" in form or "{size}" in form)
    return [phrase_of(rng.choice(some), thing, 0, rng)]


def form_apart(thing: ObjectSpec) -> str:
    """Return the form that says the motion and of the look the one part that has a name."""
    part = "{color}" if thing.color in COLORS else "{shape}"
    forms = choose_form(PARTIAL_MOVING, PARTIAL_STILL, thing)
    return next(form for form in forms if part in form)


def phrase_of(form: str, thing: ObjectSpec, owner: int, rng: random.Random | None) -> Phrase:
    """Return a filled form."""
    return Phrase(text=say_object(form, thing, rng), owner=owner, said=what_is_said(form, thing))


def say_pair(things: Sequence[ObjectSpec], rng: random.Random) -> list[Phrase]:
    """Describe two objects: often plainly, else in another wording, sometimes without motion."""
    draw = rng.random()
    if draw < PLAIN_SHARE:
        return join_pair(things, PAIR_FORMS[0], PAIR_JOINTS[0], None)
    if draw > 1 - PARTIAL_SHARE:
        return join_pair(things, ("a {look}", "a {look}"), PAIR_JOINTS[0], rng)
    if things[0].direction == things[1].direction and rng.random() < 0.3:
        return say_both(things, rng)
    return join_pair(things, rng.choice(PAIR_FORMS), rng.choice(PAIR_JOINTS), rng)


def join_pair(
    things: Sequence[ObjectSpec],
    forms: tuple[str, str],
    joint: tuple[str, str],
    rng: random.Random | None,
) -> list[Phrase]:
    """Say each object in the form for moving or still ones, between the two joining texts."""
    first, second = (
        phrase_of(choose_form(forms[:1], forms[1:], thing)[0], thing, owner, rng)
        for owner, thing in enumerate(things)
    )
    return [Phrase(text=joint[0]), first, Phrase(text=joint[1]), second]


def say_both(things: Sequence[ObjectSpec], rng: random.Random) -> list[Phrase]:
    """Describe two objects that move alike, saying the motion once."""
    form = choose_form(BOTH_FORMS[:1], BOTH_FORMS[1:], things[0])[0]
    looks = [f"a {fill('{look}', thing, 0, '')}" for thing in things]
    said = [{**what_is_said("a {look}", thing), "direction": thing.direction} for thing in things]
    return [
        Phrase(text=looks[0], owner=0, said=said[0]),
        Phrase(text=" and "),
        Phrase(text=looks[1], owner=1, said=said[1]),
        Phrase(text=say_object(form, things[0], rng)),
    ]


def with_background(phrases: list[Phrase], background: str, rng: random.Random | None) -> Caption:
    """Add the background's words to what is said of the objects, where they are needed."""
    named = background != DEFAULT_BACKGROUND or (rng is not None and rng.random() < NAMED_DEFAULT)
    if not named:
        return Caption(phrases=tuple(phrases), background=None)
    before, after = BACKGROUND_FORMS[0]
    if rng is not None and rng.random() < 0.5:
        before, after = rng.choice(BACKGROUND_FORMS)
    words = [Phrase(text=text.format(background=background)) for text in (before, after)]
    whole = [words[0], *phrases, words[1]]
    return Caption(phrases=tuple(part for part in whole if part.text), background=background)


def compose_caption(spec: ClipSpec, rng: random.Random) -> Caption:
    """Describe a clip as text training does."""
    things = spec.objects
    phrases = say_single(things[0], rng) if len(things) == 1 else say_pair(things, rng)
    return with_background(phrases, spec.background, rng)


def make_caption(spec: ClipSpec, rng: random.Random) -> str:
    """Describe a clip as text training does: often plainly, else in one of many wordings.

    A size or background that is not the default is always named; colours, shapes and directions
    are sometimes left out, and always where they have no name.
    """
    return compose_caption(spec, rng).text


def compose_plain_caption(spec: ClipSpec) -> Caption:
    """Describe a clip fully in the plain wording."""
    things = spec.objects
    if len(things) == 1:
        form = choose_form(MOVING, STILL, things[0])[0]
        phrases = [phrase_of(form, things[0], 0, None)]
    else:
        phrases = join_pair(things, PAIR_FORMS[0], PAIR_JOINTS[0], None)
    return with_background(phrases, spec.background, None)


def plain_caption(spec: ClipSpec) -> str:
    """Return the plain wording, such as "a red circle moving left on a gray background"."""
    return compose_plain_caption(spec).text


def compose_held_out_caption(spec: ClipSpec, rng: random.Random, wording: int) -> Caption:
    """Describe a single object fully in wording number `wording`, counted round, never trained."""
    thing = spec.objects[0]
    forms = choose_form(HELD_OUT_MOVING, HELD_OUT_STILL, thing)
    phrases = [phrase_of(forms[wording % len(forms)], thing, 0, rng)]
    return with_background(phrases, spec.background, None)


def base_prompt(color: str, shape: str, direction: str) -> str:
    """Return the plain wording, such as "a blue square moving up"."""
    form = (STILL if direction == "still" else MOVING)[0]
    return form.format(look=f"{color} {shape}", moving=VERBS[0][0], way=direction)


def all_words() -> list[str]:
    """Return every word of every caption, in training or not, sorted, without punctuation."""
    forms = [*MOVING, *STILL, *PARTIAL_MOVING, *PARTIAL_STILL, *PARTIAL_LOOKS, *BOTH_FORMS]
    forms += [part for pair in (*PAIR_FORMS, *PAIR_JOINTS, *BACKGROUND_FORMS) for part in pair]
    names = [name for name in SIZES if name != DEFAULT_SIZE]
    texts = [re.sub(r"\{\w+\}", " ", form) for form in forms]
    texts += [word for verb in VERBS for word in verb]
    texts += [way for ways in WAYS.values() for way in ways]
    texts += [*COLORS, *SHAPES, *BACKGROUNDS, *names]
    return sorted({word for text in texts for word in re.findall(r"[a-z]+", text)})
