"""Initial values: none for models without storage, every bit of them for others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from latte_core.meta_modules import WithoutNumbers
from latte_core.model.t2v.blocks import modulation_table

MODULES = [lambda: nn.Linear(3, 5), lambda: nn.Embedding(4, 6), lambda: nn.Conv2d(2, 3, 2)]


def test_modulation_table_is_normal_noise_over_the_root_of_the_width() -> None:
    torch.manual_seed(3)
    expected = torch.randn(6, 24) / 24**0.5
    torch.manual_seed(3)
    assert torch.equal(modulation_table(6, 24, "cpu"), expected)
    assert modulation_table(6, 24, "meta").is_meta


@pytest.mark.parametrize("make", MODULES)
def test_modules_with_storage_get_their_usual_initial_values(make: type[nn.Module]) -> None:
    def weight() -> Tensor:
        torch.manual_seed(5)
        return make().get_parameter("weight")

    expected = weight()
    with WithoutNumbers():
        assert torch.equal(weight(), expected)
        with torch.device("meta"):
            assert weight().is_meta
