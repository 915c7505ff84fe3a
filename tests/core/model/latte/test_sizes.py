"""The published sizes: names, counts, cost, tables, initial weights (docs/model.md 1, 2, 14)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from latte_test_support.latte_formula import sincos
from latte_test_support.tiny.latte import tiny_latte_config
from torch.utils.flop_counter import FlopCounterMode

from latte_core.config.latte import PRESETS, LatteConfig
from latte_core.model.latte.transformer import Latte

# preset -> trainable weights, extras=1, 256 pixels (docs/model.md 1)
TRAINABLE = {
    "Latte-S/2": 32_480_672,
    "Latte-S/4": 32_536_064,
    "Latte-S/8": 32_757_632,
    "Latte-B/2": 129_547_040,
    "Latte-B/4": 129_657_728,
    "Latte-B/8": 130_100_480,
    "Latte-L/2": 456_815_648,
    "Latte-L/4": 456_963_200,
    "Latte-L/8": 457_553_408,
    "Latte-XL/2": 673_681_568,
    "Latte-XL/4": 673_847_552,
    "Latte-XL/8": 674_511_488,
}
# size -> with tables; and of 101 classes with tables (patch 2)
WITH_TABLES = {"S": 32_585_120, "B": 129_755_936, "L": 457_094_176, "XL": 673_994_912}
OF_CLASSES = {"S": 32_624_288, "B": 129_834_272, "L": 457_198_624, "XL": 674_112_416}
NUM_KEYS = {"S": 132, "B": 132, "L": 252, "XL": 292}
CLASSES: dict[str, Any] = {"extras": 2, "num_classes": 101}
# size -> tera-operations of one 16-frame video at 256 pixels, patch 2 (docs/model.md 14)
TERA = {"Latte-XL/2": 3.786, "Latte-L/2": 2.570, "Latte-B/2": 0.728, "Latte-S/2": 0.187,
        "Latte-XL/4": 0.937, "Latte-XL/8": 0.237}  # fmt: skip


def on_meta(preset: str, **changes: Any) -> Latte:
    with torch.device("meta"):
        return Latte.from_config(LatteConfig.preset(preset, **changes))


def num_weights(model: Latte, *, has_tables: bool = True) -> int:
    return sum(p.numel() for p in model.parameters() if has_tables or p.requires_grad)


def test_every_preset_is_counted() -> None:
    assert set(TRAINABLE) == set(PRESETS)


@pytest.mark.parametrize("preset", TRAINABLE)
def test_preset_has_the_published_number_of_trainable_weights(preset: str) -> None:
    assert num_weights(on_meta(preset), has_tables=False) == TRAINABLE[preset]


@pytest.mark.parametrize("size", WITH_TABLES)
def test_tables_and_classes_add_the_published_numbers(size: str) -> None:
    assert num_weights(on_meta(f"Latte-{size}/2")) == WITH_TABLES[size]
    assert num_weights(on_meta(f"Latte-{size}/2", **CLASSES)) == OF_CLASSES[size]


@pytest.mark.parametrize("size", NUM_KEYS)
@pytest.mark.parametrize("extras", [1, 2, 78])
def test_state_has_the_published_number_of_names(size: str, extras: int) -> None:
    more = {1: 0, 2: 1, 78: 2}[extras]
    assert len(on_meta(f"Latte-{size}/2", extras=extras).state_dict()) == NUM_KEYS[size] + more


def test_xl_has_the_released_names_and_shapes() -> None:
    state = on_meta("Latte-XL/2", **CLASSES).state_dict()
    text = on_meta("Latte-XL/2", extras=78).state_dict()
    found = {name: tuple(value.shape) for name, value in {**text, **state}.items()}
    width = 1152
    expected = {
        "pos_embed": (1, 256, width),
        "temp_embed": (1, 16, width),
        "x_embedder.proj.weight": (width, 4, 2, 2),
        "x_embedder.proj.bias": (width,),
        "t_embedder.mlp.0.weight": (width, 256),
        "t_embedder.mlp.0.bias": (width,),
        "t_embedder.mlp.2.weight": (width, width),
        "t_embedder.mlp.2.bias": (width,),
        "y_embedder.embedding_table.weight": (102, width),
        "text_embedding_projection.1.weight": (width, 59136),
        "text_embedding_projection.1.bias": (width,),
        "final_layer.linear.weight": (32, width),
        "final_layer.linear.bias": (32,),
        "final_layer.adaLN_modulation.1.weight": (2304, width),
        "final_layer.adaLN_modulation.1.bias": (2304,),
    }
    rows = {"attn.qkv": (3456, width), "attn.proj": (width, width), "mlp.fc1": (4608, width),
            "mlp.fc2": (width, 4608), "adaLN_modulation.1": (6912, width)}  # fmt: skip
    for number in range(28):
        for layer, shape in rows.items():
            expected[f"blocks.{number}.{layer}.weight"] = shape
            expected[f"blocks.{number}.{layer}.bias"] = shape[:1]
    assert found == expected


def test_512_pixels_have_a_table_of_1024_places() -> None:
    assert on_meta("Latte-XL/2", image_size=512).pos_embed.shape == (1, 1024, 1152)
    assert on_meta("Latte-XL/8", image_size=256).pos_embed.shape == (1, 16, 1152)


@pytest.mark.parametrize(
    ("variant", "millions"), [(1, 673.68), (2, 673.68), (3, 676.33), (4, 676.44)]
)
def test_variants_of_xl_have_the_papers_number_of_weights(variant: int, millions: float) -> None:
    count = num_weights(on_meta("Latte-XL/2", variant=variant), has_tables=False)
    assert count / 1e6 == pytest.approx(millions, rel=1e-3)


def flops(model: Latte, frames: int = 16) -> int:
    with torch.device("meta"):
        latents, times = torch.empty(1, 4, frames, 32, 32), torch.zeros(1)
    with FlopCounterMode(display=False) as counter:
        model(latents, times)
    return counter.get_total_flops()


def formula_flops(config: LatteConfig, rows: int, final_rows: int) -> int:
    """docs/model.md 14 for any size, with modulation evaluated on `rows` conditions in a block."""
    width, frames, places = config.hidden_size, 16, config.table_side**2
    tokens = frames * places
    patch = config.patch_size**2
    blocks = config.depth * 24 * tokens * width**2
    attention = config.depth // 2 * 4 * tokens * width * (places + frames)
    modulation = rows * 12 * width**2 + final_rows * 4 * width**2
    ends = 2 * tokens * width * patch * (4 + 8) + 2 * (256 * width + width**2)
    return blocks + attention + modulation + ends


@pytest.mark.parametrize("preset", TERA)
def test_cost_is_the_formulas_with_the_modulation_computed_once(preset: str) -> None:
    model = on_meta(preset)
    config = model.config
    places = config.table_side**2
    half = config.depth // 2
    released = formula_flops(config, half * (16 + places), final_rows=16)
    # the page prints three decimals
    assert released / 1e12 == pytest.approx(TERA[preset], abs=5.1e-4)
    once = formula_flops(config, config.depth, final_rows=1)
    assert flops(model) == pytest.approx(once, rel=1e-3)


def test_cost_of_xl_is_the_published_one_without_the_saved_modulation() -> None:
    assert flops(on_meta("Latte-XL/2")) == pytest.approx(3.786e12 - 60.2e9, rel=1e-3)


@pytest.mark.parametrize("variant", [3, 4])
def test_variant_4_is_no_fast_variant(variant: int) -> None:
    cost, plain = flops(on_meta("Latte-XL/2", variant=variant)), flops(on_meta("Latte-XL/2"))
    assert 1 < cost / plain < 1.25


def test_tables_of_a_new_model_have_the_printed_digits() -> None:
    model = Latte.from_config(LatteConfig.preset("Latte-XL/2", depth=2, mlp_ratio=0.1))
    columns = [0, 1, 2, 575, 576, 577, 1151]
    first = [0.841471, 0.832795, 0.824051, 0.000101612, 0.540302, 0.553582, 1.0]
    last = [0.650288, 0.811029, 0.924636, 0.00152418, -0.759688, -0.585006, 0.999999]
    assert model.temp_embed[0, 1, columns].tolist() == pytest.approx(first, abs=5.1e-7)
    assert model.temp_embed[0, 15, columns].tolist() == pytest.approx(last, abs=5.1e-7)
    place = model.pos_embed[0, 5 * 16 + 3, [0, 1, 288, 576, 577, 864]]  # row 5, column 3
    printed = [0.141120, 0.233831, -0.989992, -0.958924, -0.991531, 0.283662]
    assert place.tolist() == pytest.approx(printed, abs=5.1e-7)


@pytest.mark.parametrize("changes", [{"input_size": 64}, {"patch_size": 4}, {"tubelet_size": 3}])
def test_tables_of_a_new_model_are_the_formulas(changes: dict[str, Any]) -> None:
    model = Latte.from_config(tiny_latte_config(**changes))
    side, slots = model.config.table_side, 3 // model.config.tubelet_size
    places = [torch.cat([sincos(8, c), sincos(8, r)]) for r in range(side) for c in range(side)]
    assert torch.equal(model.pos_embed[0], torch.stack(places).float())
    moments = torch.stack([sincos(16, frame) for frame in range(slots)])
    assert torch.equal(model.temp_embed[0], moments.float())


NEW: dict[str, dict[str, Any]] = {
    "class": {},
    "unconditional": {"conditioning": "none", "num_classes": 0},
    "text": {"conditioning": "clip_text", "num_classes": 0, "text_features": 24},
    "late": {"variant": 2},
    "split": {"variant": 3},
    "parallel": {"variant": 4},
    "tokens": {"injection": "tokens"},
    "rotary": {"temporal_positions": "rotary"},
    "image": {"has_temporal": False},
}


@torch.no_grad()
@pytest.mark.parametrize("kind", NEW)
def test_new_model_gives_exactly_zero(kind: str) -> None:
    model = Latte.from_config(tiny_latte_config(**NEW[kind])).eval()
    conditioning = model.config.conditioning
    labels = torch.tensor([0, 5]) if conditioning == "class" else None
    text = torch.randn(2, 24) if conditioning == "clip_text" else None
    out = model(torch.randn(2, 4, 3, 8, 8), torch.tensor([3, 999]), labels, text_embedding=text)
    assert out.shape == (2, 8, 3, 8, 8)
    assert not out.any()


def test_new_model_has_the_references_initial_weights() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Latte.from_config(
            tiny_latte_config(hidden_size=64, num_heads=4, num_classes=200, depth=2)
        )
    state = {key: value for key, value in model.state_dict().items() if "_embed" != key[-6:]}
    zero = {key for key, value in state.items() if not value.any()}
    assert zero == {
        key
        for key in state
        if key.endswith("bias") or "adaLN_modulation" in key or key == "final_layer.linear.weight"
    }
    for name in ("t_embedder.mlp.0", "t_embedder.mlp.2", "y_embedder.embedding_table"):
        assert float(state[f"{name}.weight"].std()) == pytest.approx(0.02, rel=0.05)
    for name in ("x_embedder.proj", "blocks.0.attn.qkv", "blocks.1.mlp.fc1", "blocks.1.attn.proj"):
        weight = state[f"{name}.weight"].flatten(1)
        bound = math.sqrt(6 / sum(weight.shape))
        assert 0.9 * bound < float(weight.abs().max()) <= bound
        assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.08)


def test_tables_are_never_trained() -> None:
    model = Latte.from_config(tiny_latte_config())
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert frozen == {"pos_embed", "temp_embed"}
