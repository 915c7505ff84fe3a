"""Print what a text starter's videos show, as a table for people."""

from __future__ import annotations

from ..starter.scores import Scores

ASKED = {
    "held_out_wordings": "wordings never trained",
    "unseen_pairs": "looks never trained",
    "two_objects": "two objects",
    "unseen_together": "two never trained together",
    "sizes": "small and big",
    "backgrounds": "backgrounds",
}


def print_scores(scores: Scores, steps: int | str, scale: float) -> None:
    """Print the scores of runs with `steps` sampling steps and guidance `scale`."""
    print(f"{scores.clips} videos, {steps} steps, guidance {scale:g}; in brackets without guidance")
    print(f"  colour right      {scores.color:7.1%}  ({scores.color_unguided:.1%})")
    print(f"  direction right   {scores.direction:7.1%}  ({scores.direction_unguided:.1%})")
    print(f"  shape right       {scores.shape:7.1%}")
    print(f"  background change {scores.background_flicker:7.2f}  of 255, frame to frame")
    print('"a square moving left":')
    print(f"  red               {scores.red_without_negative:7.1%}")
    print(f"  red, negative red {scores.red_with_negative:7.1%}")
    print("right altogether:")
    for name, words in ASKED.items():
        print(f"  {words:<26}  {getattr(scores, name):7.1%}")
