"""The table of a text starter's scores names every score."""

from __future__ import annotations

import pytest

from latte_core.cli.evaluate_starter import ASKED, print_scores
from latte_core.starter.questions import QUESTIONS
from latte_core.starter.scores import Scores


def test_every_score_is_printed_beside_its_own_words(capsys: pytest.CaptureFixture[str]) -> None:
    scores = Scores(
        clips=180,
        color=0.991,
        direction=0.982,
        shape=0.973,
        background_flicker=0.25,
        color_unguided=0.964,
        direction_unguided=0.955,
        red_without_negative=0.4,
        red_with_negative=0.01,
        held_out_wordings=0.946,
        unseen_pairs=0.937,
        two_objects=0.928,
        unseen_together=0.919,
        sizes=0.9,
        backgrounds=0.881,
    )
    print_scores(scores, 20, 2.5)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("180 videos, 20 steps, guidance 2.5")
    assert "  colour right        99.1%  (96.4%)" in lines
    assert "  two objects                   92.8%" in lines
    told = {words: next(line for line in lines if words in line) for words in ASKED.values()}
    shares = [line.split()[-1] for line in told.values()]
    assert shares == ["94.6%", "93.7%", "92.8%", "91.9%", "90.0%", "88.1%"]
    assert tuple(ASKED) == tuple(QUESTIONS)
