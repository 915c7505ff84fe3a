"""The forms of captions: words with places for colour, shape, size, verb and direction.

In a form, {look} is size, colour and shape; {size} is empty or a size word with a space; {moving},
{moves} and {move} are one verb; {way} is a direction. The first form of each list is the plain one.
Forms called held out are never trained on; all of their words are.
"""

from __future__ import annotations

VERBS = (
    ("moving", "moves", "move"),
    ("going", "goes", "go"),
    ("drifting", "drifts", "drift"),
    ("sliding", "slides", "slide"),
    ("travelling", "travels", "travel"),
    ("heading", "heads", "head"),
)
WAYS: dict[str, tuple[str, ...]] = {
    "left": ("left", "to the left", "leftwards"),
    "right": ("right", "to the right", "rightwards"),
    "up": ("up", "upwards", "to the top"),
    "down": ("down", "downwards", "to the bottom"),
}
MOVING = (
    "a {look} {moving} {way}",
    "a {look} {moves} {way}",
    "{look} {moving} {way}",
    "the {look} is {moving} {way}",
    "the {look} {moves} {way}",
    "a {size}{shape} that is {color} {moving} {way}",
    "a {size}{shape} in {color} {moving} {way}",
    "a {size}{shape}, {color}, {moving} {way}",
    "a {look}, {moving} {way}",
    "a {look} that {moves} {way}",
    "a {look} that is {moving} {way}",
    "a {look} which is {moving} {way}",
    "a {look}, it {moves} {way}",
    "{moving} {way}, a {look}",
    "one {look} {moving} {way}",
    "a single {look} {moves} {way}",
    "there is a {look} {moving} {way}",
    "this is a {look} {moving} {way}",
    "we see a {look} {moving} {way}",
    "watch a {look} {move} {way}",
    "here a {look} {moves} {way}",
    "a video of a {look} {moving} {way}",
    "a clip of a {look} that {moves} {way}",
    "the video shows a {look} {moving} {way}",
    "in this video a {look} {moves} {way}",
    "the {size}{shape} is {color} and {moves} {way}",
    "a {size}{color} object, a {shape}, {moving} {way}",
)
STILL = (
    "a {look} standing still",
    "a still {look}",
    "{look} standing still",
    "the {look} is not moving",
    "the {look} stands still",
    "a {size}{shape} that is {color} standing still",
    "a {size}{shape} in {color} standing still",
    "a {size}{shape}, {color}, standing still",
    "a {look}, not moving",
    "a {look} that does not move",
    "a {look} which is not moving",
    "a {look}, it stands still",
    "standing still, a {look}",
    "a {look} at rest",
    "a {look} staying in place",
    "we see a {look} that stays in place",
    "there is a {look} standing still",
    "a video of a {look} standing still",
    "the video shows a {look} standing still",
    "a {size}{color} object, a {shape}, standing still",
)
HELD_OUT_MOVING = (
    "the video shows a {size}{shape} in {color} that {moves} {way}",
    "there is a {size}{shape} which is {color} and {moves} {way}",
    "{moving} {way} is a {look}",
    "in this clip we see the {look} {moving} {way}",
    "this {size}{shape} is {color}, it {moves} {way}",
    "here is a {look} that is {moving} {way}",
    "one {size}{shape} that is {color} and {moves} {way}",
    "a {size}{shape} {moving} {way}, in {color}",
)
HELD_OUT_STILL = (
    "in this clip a {look} stays in place",
    "here is a {look} that is not moving",
    "the {size}{shape} is {color} and stands still",
    "this is a {look}, it does not move",
    "a {size}{shape} at rest, in {color}",
)
PARTIAL_MOVING = (
    "a {size}{shape} {moving} {way}",
    "a {size}{color} object {moving} {way}",
    "something {moving} {way}",
    "{moving} {way}",
)
PARTIAL_STILL = (
    "a {size}{shape} standing still",
    "a {size}{color} object standing still",
    "something standing still",
    "standing still",
)
PARTIAL_LOOKS = (
    "a {look}",
    "{look}",
    "a {size}{color} shape",
    "a {size}{shape}",
    "{size}{shape}",
    "{size}{color}",
)
# (form of a moving object, form of a still one)
PAIR_FORMS = (
    ("a {look} {moving} {way}", "a {look} standing still"),
    ("a {look} {moves} {way}", "a {look} stands still"),
    ("the {look} is {moving} {way}", "the {look} is not moving"),
    ("a {look} that is {moving} {way}", "a {look} that does not move"),
    ("a {size}{shape} in {color} {moving} {way}", "a {size}{shape} in {color} standing still"),
    ("a {look} {moving} {way}", "a still {look}"),
    ("a {look} {moving} {way}", "a {look} at rest"),
)
# (words before the first object, words between the two)
PAIR_JOINTS = (
    ("", " and "),
    ("", ", "),
    ("", " with "),
    ("", " while "),
    ("two objects: ", " and "),
    ("a video of two objects, ", " and "),
)
BOTH_FORMS = (", both {moving} {way}", ", both standing still")
# (words before the objects, words after them)
BACKGROUND_FORMS = (
    ("", " on a {background} background"),
    ("", " on {background}"),
    ("", " in front of a {background} background"),
    ("", ", the background is {background}"),
    ("on a {background} background, ", ""),
)
