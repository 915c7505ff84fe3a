"""LatteT2V against diffusers' class with the same weights, and its own promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from latte_core.config.t2v import LatteT2VConfig
from latte_core.errors import IncompatibleInputsError, InvalidInputError
from latte_core.model.attention import BlockHooks, scaled_dot_product
from latte_core.model.t2v.transformer import LatteT2V

TINY: dict[str, Any] = {
    "num_layers": 2,
    "num_attention_heads": 4,
    "attention_head_dim": 8,
    "cross_attention_dim": 32,
    "caption_channels": 48,
    "in_channels": 4,
    "out_channels": 8,
    "patch_size": 2,
    "sample_size": 64,
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
}


def diffusers_model(video_length: int, **changes: Any) -> Any:
    transformers = pytest.importorskip("diffusers")
    return transformers.LatteTransformer3DModel(**{**TINY, **changes}, video_length=video_length)


def pair(video_length: int = 16, seed: int = 0, **changes: Any) -> tuple[Any, LatteT2V]:
    """Return diffusers' model and ours with the same random weights."""
    torch.manual_seed(seed)
    theirs = diffusers_model(video_length, **changes).eval()
    ours = LatteT2V.from_config({**TINY, **changes}).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def inputs(
    batch: int, frames: int, height: int, width: int, length: int = 11, seed: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(batch, 4, frames, height, width, generator=generator)
    timesteps = torch.rand(batch, generator=generator) * 999
    context = torch.randn(batch, length, 48, generator=generator)
    return latents, timesteps, context


@pytest.mark.parametrize(
    ("batch", "frames", "height", "width", "temporal"),
    [
        pytest.param(1, 16, 64, 64, True, id="native"),
        pytest.param(2, 16, 12, 20, True, id="rectangle"),
        pytest.param(2, 16, 20, 8, True, id="tall rectangle"),
        pytest.param(2, 1, 16, 16, True, id="one frame"),
        pytest.param(2, 1, 16, 16, False, id="one frame, temporal off"),
        pytest.param(2, 5, 8, 12, False, id="temporal off"),
        pytest.param(3, 7, 8, 12, True, id="7 frames, three timesteps"),
        pytest.param(1, 17, 8, 8, True, id="17 frames, longer table"),
    ],
)
@torch.no_grad()
def test_output_equals_diffusers(
    batch: int, frames: int, height: int, width: int, temporal: bool
) -> None:
    theirs, ours = pair(video_length=max(frames, 1))
    latents, timesteps, context = inputs(batch, frames, height, width)
    expected = theirs(latents, timesteps, context, enable_temporal_attentions=temporal).sample
    found = ours(latents, timesteps, context, enable_temporal_attention=temporal)
    assert found.shape == (batch, 8, frames, height, width)
    assert float((found - expected).abs().max()) <= 1e-5


@torch.no_grad()
def test_masked_output_equals_diffusers_given_the_built_bias() -> None:
    theirs, ours = pair()
    latents, timesteps, context = inputs(2, 16, 8, 8)
    mask = torch.ones(2, 11)
    mask[0, 4:] = 0
    mask[1, 9:] = 0
    bias = ((1 - mask) * -10000.0)[:, None].repeat_interleave(16, dim=0)
    expected = theirs(latents, timesteps, context, encoder_attention_mask=bias).sample
    for form in (mask, mask.bool(), mask.long()):
        found = ours(latents, timesteps, context, form)
        assert float((found - expected).abs().max()) <= 1e-5


@torch.no_grad()
def test_masked_rows_have_no_influence_and_all_masked_rows_stay_finite() -> None:
    _, ours = pair()
    latents, timesteps, context = inputs(1, 4, 8, 8)
    mask = torch.zeros(1, 11)
    mask[:, :5] = 1
    whole = ours(latents, timesteps, context, mask)
    cut = ours(latents, timesteps, context[:, :5])
    assert float((whole - cut).abs().max()) <= 1e-5
    assert bool(ours(latents, timesteps, context, torch.zeros(1, 11)).isfinite().all())


@torch.no_grad()
def test_bfloat16_error_is_not_above_diffusers_own() -> None:
    ours_error, theirs_error = 0.0, 0.0
    for seed in range(5):
        theirs, ours = pair(seed=seed)
        latents, timesteps, context = inputs(2, 16, 16, 16, seed=seed)
        exact = ours(latents, timesteps, context)
        half = [tensor.to(torch.bfloat16) for tensor in (latents, context)]
        found = ours.to(torch.bfloat16)(half[0], timesteps, half[1])
        expected = theirs.to(torch.bfloat16)(half[0], timesteps, half[1]).sample
        assert found.dtype == torch.bfloat16
        ours_error += float((found.float() - exact).square().mean().sqrt())
        theirs_error += float((expected.float() - exact).square().mean().sqrt())
    assert ours_error <= 1.05 * theirs_error


def test_full_size_has_the_published_names_and_parameter_counts() -> None:
    with torch.device("meta"):
        model = LatteT2V.from_config({})
    state = model.state_dict()
    assert len(state) == 967
    counts = {"transformer_blocks": 0, "temporal_transformer_blocks": 0, "other": 0}
    for name, value in state.items():
        group = name.partition(".")[0]
        counts[group if group in counts else "other"] += value.numel()
    assert counts == {
        "transformer_blocks": 595_155_456,
        "temporal_transformer_blocks": 446_390_784,
        "other": 15_700_640,
    }


def test_full_size_forward_computes_text_keys_and_values_once() -> None:
    with torch.device("meta"):
        model = LatteT2V.from_config({})
        latents = torch.empty(2, 4, 16, 64, 64)
        context = torch.empty(2, 120, 4096)
    with FlopCounterMode(display=False) as counter:
        out = model(latents, torch.zeros(2, device="meta"), context)
    assert out.shape == (2, 8, 16, 64, 64)
    flops = counter.get_total_flops()
    formula = full_size_flops(batch=2, length=120)
    assert flops <= 68.27e12
    assert flops == pytest.approx(formula, rel=1e-3)


def full_size_flops(batch: int, length: int) -> float:
    """docs/model.md 14, with the text's keys and values counted once instead of per frame."""
    width, frames, places = 1152, 16, 1024
    tokens = batch * frames * places
    pair_of_blocks = (
        (24 * tokens * width**2 + 4 * tokens * places * width)
        + (4 * tokens * width**2 + 4 * tokens * length * width)
        + 4 * batch * length * width**2
        + (24 * tokens * width**2 + 4 * tokens * frames * width)
    )
    ends = 96 * tokens * width + 2 * batch * length * (4096 * width + width**2)
    return 28 * pair_of_blocks + ends + 2 * batch * (256 * width + 7 * width**2)


@torch.no_grad()
def test_text_computed_once_gives_the_same_bits() -> None:
    _, ours = pair()
    latents, timesteps, context = inputs(2, 3, 8, 8)
    text = ours.project_text(context)
    assert torch.equal(ours(latents, timesteps, text=text), ours(latents, timesteps, context))


@torch.no_grad()
def test_one_prompt_serves_all_videos() -> None:
    _, ours = pair()
    latents, timesteps, context = inputs(3, 2, 8, 8)
    shared = ours(latents, timesteps, context[:1])
    spelled_out = ours(latents, timesteps, context[:1].expand(3, -1, -1))
    # Matrix products of one row and of three may round differently.
    torch.testing.assert_close(shared, spelled_out, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_prompt_per_frame_reaches_its_own_frame_only() -> None:
    _, ours = pair()
    latents, timesteps, context = inputs(2, 3, 8, 8)
    rows = context.repeat_interleave(3, dim=0)  # (B F) L C
    same = ours(latents, timesteps, rows)
    assert float((same - ours(latents, timesteps, context)).abs().max()) <= 1e-5
    rows = rows.clone()
    rows[4] += 1.0  # video 1, frame 1
    changed = ours(latents, timesteps, rows, enable_temporal_attention=False)
    plain = ours(latents, timesteps, context, enable_temporal_attention=False)
    difference = (changed - plain).abs().amax(dim=(1, 3, 4)) > 1e-6
    assert difference.tolist() == [[False, False, False], [False, True, False]]


@torch.no_grad()
def test_videos_of_a_batch_do_not_influence_each_other() -> None:
    _, ours = pair()
    latents, timesteps, context = inputs(2, 4, 8, 12)
    both = ours(latents, timesteps, context)
    alone = [ours(latents[k : k + 1], timesteps[k : k + 1], context[k : k + 1]) for k in (0, 1)]
    assert float((both - torch.cat(alone)).abs().max()) <= 1e-5


@torch.no_grad()
def test_whole_and_float_timesteps_agree_and_fractions_lie_between() -> None:
    _, ours = pair()
    latents, _, context = inputs(1, 2, 8, 8)
    whole = ours(latents, torch.tensor([500]), context)
    assert torch.equal(whole, ours(latents, torch.tensor([500.0]), context))
    assert not torch.equal(whole, ours(latents, torch.tensor([500.5]), context))


@torch.no_grad()
def test_every_attention_and_block_goes_through_the_hooks() -> None:
    _, ours = pair()
    latents, timesteps, context = inputs(1, 3, 8, 8)
    calls: list[tuple[str, int, tuple[int, ...]]] = []
    pairs: list[int] = []

    def attention(
        q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any = None, **kw: Any
    ) -> Tensor:
        calls.append((kw["kind"], kw["block_index"], tuple(q.shape)))
        return scaled_dot_product(q, k, v, heads, mask)

    def run_block(index: int, fn: Any, hidden: Tensor, text: Tensor, modulation: Tensor) -> Tensor:
        pairs.append(index)
        assert text.shape == (1, 11, 32)
        assert modulation.shape == (1, 6, 32)
        return fn(hidden, text, modulation)

    hooks = BlockHooks(attention=attention, run_block=run_block)
    hooked = ours(latents, timesteps, context, hooks=hooks)
    assert torch.equal(hooked, ours(latents, timesteps, context))
    assert pairs == [0, 1]
    shapes = [("spatial", (3, 16, 32)), ("cross", (1, 48, 32)), ("temporal", (16, 3, 32))]
    assert calls == [(kind, k, shape) for k in (0, 1) for kind, shape in shapes]


@torch.no_grad()
def test_a_skipped_pair_changes_nothing_but_its_own_contribution() -> None:
    _, ours = pair()
    latents, timesteps, context = inputs(1, 3, 8, 8)

    def skip_second(index: int, fn: Any, hidden: Tensor, *rest: Tensor) -> Tensor:
        return hidden if index == 1 else fn(hidden, *rest)

    skipped = ours(latents, timesteps, context, hooks=BlockHooks(run_block=skip_second))
    short = LatteT2V.from_config({**TINY, "num_layers": 1})
    short.load_state_dict(
        {name: value for name, value in ours.state_dict().items() if "blocks.1." not in name}
    )
    assert float((skipped - short(latents, timesteps, context)).abs().max()) <= 1e-6


@torch.no_grad()
def test_the_self_attention_hook_sees_only_spatial_attention() -> None:
    _, ours = pair()
    latents, timesteps, context = inputs(1, 3, 8, 8)
    seen: list[tuple[int, int, tuple[int, ...]]] = []

    def zero(index: int, heads: int, out: Tensor) -> Tensor:
        seen.append((index, heads, tuple(out.shape)))
        return torch.zeros_like(out)

    changed = ours(latents, timesteps, context, hooks=BlockHooks(attn_output_hook=zero))
    assert seen == [(0, 4, (3, 16, 32)), (1, 4, (3, 16, 32))]
    assert not torch.equal(changed, ours(latents, timesteps, context))


def test_gradients_reach_every_parameter() -> None:
    _, ours = pair()
    latents, timesteps, context = inputs(2, 3, 8, 8)
    ours(latents, timesteps, context).square().mean().backward()
    missing = [name for name, value in ours.named_parameters() if value.grad is None]
    assert missing == []


@pytest.mark.parametrize(
    ("latents", "error", "words"),
    [
        (torch.zeros(1, 4, 2, 7, 8), InvalidInputError, "multiples of 2 cells"),
        (torch.zeros(1, 4, 0, 8, 8), InvalidInputError, "nothing may be empty"),
        (torch.zeros(1, 3, 2, 8, 8), IncompatibleInputsError, "(videos, 4, frames"),
        (torch.zeros(4, 2, 8, 8), IncompatibleInputsError, "(videos, 4, frames"),
    ],
)
def test_latents_of_another_kind_are_refused(latents: Tensor, error: type, words: str) -> None:
    model = LatteT2V.from_config(TINY)
    with pytest.raises(error) as caught:
        model(latents, torch.zeros(1), torch.zeros(1, 3, 48))
    assert words in str(caught.value)


def test_text_of_another_width_is_refused_with_both_numbers() -> None:
    model = LatteT2V.from_config(TINY)
    with pytest.raises(IncompatibleInputsError, match=r"\(1, 77, 768\).*48"):
        model(torch.zeros(1, 4, 2, 8, 8), torch.zeros(1), torch.zeros(1, 77, 768))
    with pytest.raises(InvalidInputError, match="no text"):
        model(torch.zeros(1, 4, 2, 8, 8), torch.zeros(1))


def test_a_count_of_prompts_that_fits_nothing_is_refused() -> None:
    model = LatteT2V.from_config(TINY)
    with pytest.raises(IncompatibleInputsError, match="5 text conditionings for 2 videos of 3"):
        model(torch.zeros(2, 4, 3, 8, 8), torch.zeros(2), torch.zeros(5, 4, 48))


def test_layers_come_from_the_given_operations_and_tables_stay_float32() -> None:
    made: list[str] = []

    class Operations:
        @staticmethod
        def Linear(*args: Any, **kwargs: Any) -> torch.nn.Linear:
            made.append("linear")
            return torch.nn.Linear(*args, **kwargs)

        @staticmethod
        def Conv2d(*args: Any, **kwargs: Any) -> torch.nn.Conv2d:
            made.append("conv")
            return torch.nn.Conv2d(*args, **kwargs)

    model = LatteT2V.from_config(TINY, operations=Operations, dtype=torch.bfloat16)
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert made.count("linear") == len(linear)
    assert made.count("conv") == 1
    for name, value in model.named_parameters():
        expected = torch.float32 if "scale_shift_table" in name else torch.bfloat16
        assert value.dtype == expected, name


@torch.no_grad()
def test_float32_latents_are_cast_once_for_a_half_precision_model() -> None:
    _, ours = pair()
    ours.to(torch.bfloat16)
    latents, timesteps, context = inputs(1, 2, 8, 8)
    out = ours(latents, timesteps, context)
    assert out.dtype == torch.float32
    halves = latents.bfloat16(), timesteps, context.bfloat16()
    assert torch.equal(out, ours(*halves).float())


def test_the_model_needs_no_float64_on_its_device() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class NoFloat64(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor) and leaf.device.type == "meta":
                    assert leaf.dtype != torch.float64, func
            return result

    with torch.device("meta"):
        model = LatteT2V.from_config(TINY)
        latents, context = torch.empty(1, 4, 2, 8, 8), torch.empty(1, 3, 48)
    with NoFloat64():
        model(latents, torch.zeros(1, device="meta"), context)


def test_config_reads_published_and_legacy_keys() -> None:
    published = {**TINY, "_class_name": "LatteTransformer3DModel", "_diffusers_version": "0.30"}
    legacy = {**published, "video_length": 16, "norm_num_groups": 32, "num_vector_embeds": None}
    assert LatteT2VConfig.from_dict(legacy) == LatteT2VConfig.from_dict(TINY)
    config = LatteT2VConfig.from_dict(TINY)
    assert LatteT2VConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "name", ["num_layers", "attention_head_dim", "patch_size", "caption_channels", "sample_size"]
)
@pytest.mark.parametrize("value", [0, -1, 10**9, 1.5, "16", True, None])
def test_config_values_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=name):
        LatteT2VConfig.from_dict({**TINY, name: value})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm_type": "layer_norm"}, "norm_type"),
        ({"activation_fn": "silu"}, "activation_fn"),
        ({"cross_attention_dim": 64}, "cross_attention_dim"),
        ({"out_channels": 5}, "out_channels"),
        ({"dropout": 0.1}, "dropout"),
        ({"norm_eps": 0}, "norm_eps"),
        ({"num_head": 3}, "num_head"),
        ({"num_attention_heads": 512, "attention_head_dim": 1024}, "hidden size"),
    ],
)
def test_config_of_another_model_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        LatteT2VConfig.from_dict({**TINY, **changes})
