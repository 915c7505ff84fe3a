"""What Latte Precision offers and refuses, without ComfyUI."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from latte_test_support.pack import load_pack

from latte_core.precision.names import PRECISIONS

NODE: Any = load_pack().NODE_CLASS_MAPPINGS["LattePrecision"]


def test_the_widget_offers_every_precision_and_off() -> None:
    choices, options = NODE.INPUT_TYPES()["required"]["precision"]
    assert choices == [*PRECISIONS, "off"]
    assert options["default"] in PRECISIONS
    assert "saves memory and no time" in options["tooltip"]


def test_other_models_and_words_are_refused_at_the_border() -> None:
    latte = SimpleNamespace(
        model=SimpleNamespace(
            model_config=SimpleNamespace(unet_config={"image_model": "latte_t2v"})
        )
    )
    with pytest.raises(ValueError, match='"model" input of Latte Precision got a str'):
        NODE().patch("no model", "fp8")
    with pytest.raises(ValueError, match="precision is 'int4'"):
        NODE().patch(latte, "int4")
