"""Which model family a set of weight names belongs to (R10)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from .derivatives import has_skips
from .names import COMPILED, LATTE_MARK, T2V_MARK, VIDEO_NAMES, find_prefix, looks_like_latte

MODEL_NODE = "Latte Model Loader"
TEXT_NODE = "Latte Text Encoder Loader"
VAE_NODE = "Latte VAE Loader"
LORA_NODE = "Latte LoRA Loader"
CLASS_NODE = "Latte Class Label"
UNCONDITIONAL_NODE = "Latte Unconditional"
T5_BIAS = ".SelfAttention.relative_attention_bias.weight"
UMT5_ROWS = 256384
LORA_MARKS = (
    ".lora_A.",
    ".lora_B.",
    ".lora_up.",
    ".lora_down.",
    ".lora.up.",
    ".lora.down.",
    "_lora.up.",
    ".lora_linear_layer.",
    ".hada_w1",
    ".lokr_w1",
    ".dora_scale",
)


class Family(Enum):
    """What a file is; the value is its name in a sentence."""

    LATTE_T2V = "a Latte text-to-video transformer"
    LATTE_CLASS = "a class-conditional or unconditional Latte model"
    SKIP_DIT = "a Latte with Skip-DiT's long connections"
    OPEN_SORA_PLAN = "a text-to-video transformer of Open-Sora-Plan"
    LATTE_FOLDER = "a complete Latte folder"
    DIT = "a DiT image model"
    PIXART = "a PixArt image model"
    SD_UNET = "a Stable Diffusion model"
    SDXL_UNET = "a Stable Diffusion XL model"
    FLUX = "a Flux image model"
    T5_ENCODER = "a T5 encoder"
    UMT5_ENCODER = "a umT5 encoder"
    OTHER_TEXT = "a text encoder of another kind"
    CLIP = "a CLIP model"
    IMAGE_VAE = "an image VAE"
    TEMPORAL_VAE = "a temporal decoder VAE"
    OTHER_VAE = "a VAE of another model"
    LORA = "a LoRA"
    WAN_VIDEO = "a Wan video model"
    LTX_VIDEO = "an LTX-Video model"
    OTHER_VIDEO = "a video model of another family"
    NOT_WEIGHTS = "not a weights file"
    INCOMPLETE = "a cut-off weights file"
    UNKNOWN = "a model this pack does not know"


ADVICE: dict[Family, str] = {
    Family.LATTE_T2V: f"Use {MODEL_NODE}.",
    Family.LATTE_CLASS: f"Use {MODEL_NODE} with {CLASS_NODE} or {UNCONDITIONAL_NODE}.",
    Family.DIT: f"Use {MODEL_NODE} with {CLASS_NODE}; it makes single images, no video.",
    Family.SKIP_DIT: "These are not supported; choose the Latte that it was made from.",
    Family.OPEN_SORA_PLAN: "It is not supported; choose a file of Latte-1, or the starter.",
    Family.LATTE_FOLDER: f"Use {MODEL_NODE}, {TEXT_NODE} and {VAE_NODE}; each finds its part.",
    Family.T5_ENCODER: f"Use {TEXT_NODE}.",
    Family.UMT5_ENCODER: f"Latte needs T5 v1.1 XXL (t5xxl), not umT5; load that with {TEXT_NODE}.",
    Family.CLIP: f"Latte reads prompts with T5 v1.1 XXL (t5xxl), not CLIP; load that with "
    f"{TEXT_NODE}.",
    Family.OTHER_TEXT: f"Latte needs T5 v1.1 XXL (t5xxl); load that with {TEXT_NODE}.",
    Family.IMAGE_VAE: f"Use {VAE_NODE}.",
    Family.TEMPORAL_VAE: f"Use {VAE_NODE}.",
    Family.OTHER_VAE: f"Latte needs one with 4 latent channels; load that with {VAE_NODE}.",
    Family.LORA: f"Use {LORA_NODE}.",
    Family.UNKNOWN: "Choose a file of Latte-1, or the starter.",
}
STOCK_ADVICE = "It is not part of Latte; use ComfyUI's own loaders for it."


class Names:
    """Names of one file, made quick to ask."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = {name.replace(COMPILED, ""): shape for name, shape in shapes.items()}
        self.text = "\n" + "\n".join(self.shapes) + "\n"

    def holds(self, part: str) -> bool:
        """Return whether any name contains `part`."""
        return part in self.text

    def ends(self, part: str) -> bool:
        """Return whether any name is `part`, or ends with it behind a dot."""
        return f"\n{part}\n" in self.text or f".{part}\n" in self.text

    def shape_of(self, part: str) -> tuple[int, ...]:
        """Return the shape of the first weight whose name ends with `part`, or ()."""
        return next((shape for name, shape in self.shapes.items() if name.endswith(part)), ())


@dataclass(frozen=True, slots=True)
class Rule:
    """A family and the test that finds it; the first rule that holds decides."""

    family: Family
    holds: Callable[[Names], bool]


def is_lora(names: Names) -> bool:
    """LoRA, LoHa or LoKr, of any trainer."""
    return any(map(names.holds, LORA_MARKS)) or names.holds("\nlora_unet_")


def is_t2v_names(names: Names) -> bool:
    """LatteT2V behind known prefixes."""
    return find_prefix(names.shapes, T2V_MARK) is not None


def is_skip_dit(names: Names) -> bool:
    """Skip-DiT: a Latte of either kind with long connections."""
    return has_skips(names.shapes) and (is_t2v_names(names) or latte_prefix(names) is not None)


def is_class_latte(names: Names) -> bool:
    """Latte or LatteIMG behind known prefixes: DiT's blocks, and a sign of time."""
    prefix = latte_prefix(names)
    return prefix is not None and any(prefix + name in names.shapes for name in VIDEO_NAMES)


def is_dit(names: Names) -> bool:
    """DiT behind known prefixes; a Latte without its temporal table looks the same."""
    return latte_prefix(names) is not None


def latte_prefix(names: Names) -> str | None:
    """Return what stands before the names of a Latte or DiT, or None if it is neither."""
    prefix = find_prefix(names.shapes, LATTE_MARK)
    return prefix if prefix is not None and looks_like_latte(names.shapes, prefix) else None


def is_wan(names: Names) -> bool:
    """Wan, native names."""
    return names.ends("blocks.0.self_attn.q.weight") and names.ends("head.modulation")


def is_ltx(names: Names) -> bool:
    """LTX-Video, native or diffusers names."""
    is_native = names.ends("patchify_proj.weight")
    is_diffusers = names.ends("transformer_blocks.0.attn1.norm_q.weight") and names.ends(
        "proj_in.weight"
    )
    return (is_native or is_diffusers) and names.holds("transformer_blocks.0.")


def is_other_video(names: Names) -> bool:
    """Video models that share names with Latte or with image models."""
    marks = (
        "temporal_transformer_blocks.",
        "motion_modules.",
        "temporal_transformer.",
        "time_stack.0.",
        "input_blocks.1.1.time_stack.",
        "individual_token_refiner",
        "spatial_blocks.0.",
        "temporal_blocks.0.",
        "blocks.0.mod_x",
    )
    is_cog = names.ends("transformer_blocks.0.norm1.linear.weight") and names.ends(
        "patch_embed.text_proj.weight"
    )
    return is_cog or any(map(names.holds, marks))


def is_sd(names: Names) -> bool:
    """A Stable Diffusion U-Net, native or diffusers names."""
    is_native = names.ends("input_blocks.0.0.weight") and names.holds("middle_block.")
    return is_native or (names.ends("time_embedding.linear_1.weight") and names.holds("mid_block."))


def is_sdxl(names: Names) -> bool:
    """Stable Diffusion XL: a U-Net with size conditioning."""
    has_sizes = names.ends("label_emb.0.0.weight") or names.ends("add_embedding.linear_1.weight")
    return has_sizes and is_sd(names)


def is_flux(names: Names) -> bool:
    """Flux, native or diffusers names."""
    return names.holds("double_blocks.0.img_attn.") or (
        names.holds("single_transformer_blocks.0.") and names.ends("context_embedder.weight")
    )


def is_pixart(names: Names) -> bool:
    """PixArt, native or diffusers names."""
    is_native = names.ends("blocks.0.cross_attn.q_linear.weight")
    is_diffusers = names.ends("adaln_single.linear.weight") and names.ends(
        "transformer_blocks.0.attn2.to_q.weight"
    )
    return is_native or is_diffusers


def is_t5(names: Names) -> bool:
    """A T5 encoder, whole or a shard of one."""
    return re.search(r"encoder\.block\.\d+\.layer\.\d+\.", names.text) is not None


def is_umt5(names: Names) -> bool:
    """umT5: every block has its own position table; or Wan's own names for it."""
    if names.ends("token_embedding.weight") and names.ends("blocks.0.attn.q.weight"):
        return True
    is_large = names.shape_of("shared.weight")[:1] == (UMT5_ROWS,)
    has_second = re.search(rf"block\.[1-9]\d*\.layer\.0{re.escape(T5_BIAS)}", names.text)
    return is_t5(names) and (is_large or has_second is not None)


def is_clip(names: Names) -> bool:
    """CLIP, transformers or open_clip names."""
    return names.holds("text_model.encoder.layers.0.") or names.ends(
        "transformer.resblocks.0.attn.in_proj_weight"
    )


def is_temporal_vae(names: Names) -> bool:
    """The decoder with temporal convolutions, diffusers or SVD names."""
    is_diffusers = names.ends("decoder.time_conv_out.weight") or names.holds(
        "decoder.mid_block.resnets.0.temporal_res_block."
    )
    return is_diffusers or names.ends("decoder.mid.block_1.mix_factor")


def is_vae(names: Names) -> bool:
    """An image autoencoder, diffusers or original names."""
    return names.ends("decoder.mid_block.resnets.0.conv1.weight") or names.ends(
        "decoder.mid.block_1.conv1.weight"
    )


def is_foreign_vae(names: Names) -> bool:
    """An autoencoder whose latents are not Latte's: other than 4 channels, or 3-D weights."""
    shape = names.shape_of("decoder.conv_in.weight")
    is_video = names.holds("decoder.upsamples.") and names.holds("decoder.middle.")
    return is_video or (is_vae(names) and len(shape) >= 2 and (shape[1] != 4 or len(shape) != 4))


RULES = (
    Rule(Family.LORA, is_lora),
    Rule(Family.SKIP_DIT, is_skip_dit),
    Rule(Family.LATTE_T2V, is_t2v_names),
    Rule(Family.LATTE_CLASS, is_class_latte),
    Rule(Family.DIT, is_dit),
    Rule(Family.TEMPORAL_VAE, lambda names: is_temporal_vae(names) and not is_sd(names)),
    Rule(Family.WAN_VIDEO, is_wan),
    Rule(Family.LTX_VIDEO, is_ltx),
    Rule(Family.OTHER_VIDEO, is_other_video),
    Rule(Family.SDXL_UNET, is_sdxl),
    Rule(Family.SD_UNET, is_sd),
    Rule(Family.FLUX, is_flux),
    Rule(Family.PIXART, is_pixart),
    Rule(Family.OTHER_VAE, is_foreign_vae),
    Rule(Family.IMAGE_VAE, is_vae),
    Rule(Family.UMT5_ENCODER, is_umt5),
    Rule(Family.T5_ENCODER, is_t5),
    Rule(Family.CLIP, is_clip),
)


def family_of(shapes: Mapping[str, tuple[int, ...]]) -> Family:
    """Return the family that the weight names and shapes in `shapes` belong to."""
    names = Names(shapes)
    return next((rule.family for rule in RULES if rule.holds(names)), Family.UNKNOWN)


def advice_for(family: Family) -> str:
    """Return the sentence that tells a person what to do with a file of this family."""
    return ADVICE.get(family, STOCK_ADVICE)


def joined(items: Iterable[str]) -> str:
    """Return names as a person lists them: a, b or c."""
    listed = list(items)
    return " or ".join([", ".join(listed[:-1]), listed[-1]] if len(listed) > 1 else listed)
