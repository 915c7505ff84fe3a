"""Strip what training and other tools put before the released key names (docs/model.md 9.4)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...errors import WeightMismatchError
from ..reading.records import shown

WRAPPER = r"(?:model\.diffusion_model|diffusion_model|module|_orig_mod|ema|model|transformer)\."
WRAPPERS = re.compile(f"(?:{WRAPPER})*")
COMPILED = "_orig_mod."
# First parts of names that belong to other parts of an all-in-one or training checkpoint.
OTHER_PARTS = (
    "cond_stage_model.",
    "conditioner.",
    "ema.",
    "first_stage_model.",
    "model.",
    "model_ema.",
    "text_encoder.",
    "text_encoders.",
    "vae.",
)
# A config as the bytes of its JSON: what ComfyUI's "Save Model" keeps where metadata is lost.
CONFIG_TENSOR = "latte_config"
T2V_MARK = "temporal_transformer_blocks.0.attn1.to_q.weight"
LATTE_MARK = "blocks.0.attn.qkv.weight"
LATTE_INPUT = "x_embedder.proj.weight"
TEMPORAL_TABLE = "temp_embed"
# What must stand behind the same unknown prefix as a mark, which alone may be part of a U-Net.
COMPANIONS: Mapping[str, str] = {T2V_MARK: "pos_embed.proj.weight", LATTE_MARK: LATTE_INPUT}
MODULATION = "blocks.0.adaLN_modulation.1.weight"
SECOND_ATTENTION = "blocks.0.attn_temp.qkv.weight"
TUBELET_LAYER = "final_layer.temporal_up.weight"
# Any of these tells a Latte or a DiT from other transformers with the two names above.
LATTE_SIGNS = (TEMPORAL_TABLE, MODULATION, "t_embedder.mlp.0.weight")
# Any of these tells a video model from an image model.
VIDEO_NAMES = (TEMPORAL_TABLE, SECOND_ATTENTION, TUBELET_LAYER)
CROSS_ATTENTION = "blocks.0.cross_attn."


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The names of one model inside a file.

    Args:
        prefix: what stood before every released name, with its last dot, or "".
        names: released name -> name in the file.
        ignored: names in the file that belong to other parts of the checkpoint.
    """

    prefix: str
    names: Mapping[str, str]
    ignored: tuple[str, ...]

    @property
    def is_ema(self) -> bool:
        """Whether these are averaged weights."""
        return "ema." in self.prefix


def find_prefix(names: Iterable[str], mark: str) -> str | None:
    """Return what stands before the name `mark`; known wrappers win, then averaged weights.

    A prefix that nobody knows is taken where it is the only one with a transformer's input. None
    means that there is no prefix to take.

    Raises:
        WeightMismatchError: if several text-to-video transformers stand behind unknown prefixes.
    """
    listed = set(names)
    found = [name.removesuffix(mark) for name in listed if name.endswith(mark)]
    known = [prefix for prefix in found if WRAPPERS.fullmatch(prefix)]
    if not known:
        unknown = sorted(
            {p for p in found if p.endswith(".") and f"{p}{COMPANIONS.get(mark)}" in listed}
        )
        if len(unknown) > 1 and mark == T2V_MARK:
            behind = ", ".join(shown(prefix) for prefix in unknown[:5])
            raise WeightMismatchError(
                f"The weights hold {len(unknown)} Latte transformers, behind {behind}. "
                "Keep the tensors of one of them in a file of its own."
            )
        return unknown[0] if len(unknown) == 1 else None
    return min(known, key=lambda prefix: ("ema." not in prefix, len(prefix), prefix))


def looks_like_latte(names: Iterable[str], prefix: str = "") -> bool:
    """Return whether the names behind `prefix` are those of a class-conditional or unconditional
    Latte, or of a DiT, whose names are the same (docs/model.md 9.4).

    PixArt and its relatives have these names and cross-attention.
    """
    known = set(names)
    if f"{prefix}{LATTE_MARK}" not in known or f"{prefix}{LATTE_INPUT}" not in known:
        return False
    has_sign = any(f"{prefix}{sign}" in known for sign in LATTE_SIGNS)
    return has_sign and not any(name.startswith(f"{prefix}{CROSS_ATTENTION}") for name in known)


def select_model(names: Iterable[str], mark: str = T2V_MARK) -> Selection | None:
    """Return the names of the model that is known by `mark`, without prefixes, or None.

    `torch.compile` puts `_orig_mod.` anywhere; it is removed everywhere. Names outside the prefix
    that no other part of a checkpoint explains are kept as they are, so that a strict load sees
    them.

    Raises:
        WeightMismatchError: if two names of the file become the same.
    """
    plain: dict[str, str] = {}
    for name in names:
        short = name.replace(COMPILED, "")
        if short in plain:
            raise WeightMismatchError(
                f"The weights hold {shown(short)} twice, compiled and plain. Keep one of them."
            )
        plain[short] = name
    prefix = find_prefix(plain, mark)
    if prefix is None:
        return None
    chosen: dict[str, str] = {}
    ignored: list[str] = []
    for short, name in plain.items():
        if short.startswith(prefix):
            chosen[short.removeprefix(prefix)] = name
        elif short.startswith(OTHER_PARTS):
            ignored.append(name)
        else:
            chosen[short] = name
    if not prefix:
        ignored = [name for short, name in chosen.items() if short.startswith(OTHER_PARTS)]
        chosen = {s: name for s, name in chosen.items() if not s.startswith(OTHER_PARTS)}
    return Selection(prefix=prefix, names=chosen, ignored=tuple(ignored))
