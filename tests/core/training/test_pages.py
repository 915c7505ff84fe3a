"""The configs that the training page shows are ones that the trainer takes."""

from __future__ import annotations

import pytest
from latte_test_support.source import ROOT

from latte_core.config.latte import LatteConfig
from latte_core.training.train_config import parse_config

CONFIGS = sorted((ROOT / "docs" / "configs").glob("*.yaml"))


def test_there_are_configs_and_the_page_names_each() -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert len(CONFIGS) >= 3
    assert [path.name for path in CONFIGS if f"configs/{path.name}" not in page] == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_of_the_page_is_taken(path: object) -> None:
    config = parse_config(str(path))
    assert config.num_steps > 0


def test_the_ucf_config_is_the_authors_model() -> None:
    config = parse_config(ROOT / "docs" / "configs" / "ucf101.yaml")
    assert config.architecture is not None
    model = LatteConfig.from_dict(config.architecture)
    assert (model.hidden_size, model.depth, model.num_classes) == (1152, 28, 101)
    assert model.input_size == 32
    assert (config.num_images, config.clip_from, config.interval) == (8, 100_000, 3)
