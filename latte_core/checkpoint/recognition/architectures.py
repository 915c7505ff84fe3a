"""The two transformers that are loaded, and everything in which loading them differs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ...config.latte import LatteConfig
from ...config.t2v import LatteT2VConfig
from ...model.latte.transformer import Latte
from ...model.t2v.transformer import LatteT2V
from .derivatives import has_skips
from .detect import T2V_CLASS_NAMES, is_config_of, states_heads, t2v_config_of
from .detect_latte import LATTE_CLASS_NAMES, latte_config_of
from .names import LATTE_MARK, T2V_MARK, Selection, looks_like_latte, select_model

Config = LatteT2VConfig | LatteConfig
Model = LatteT2V | Latte
RELEASED_T2V = LatteT2VConfig()


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """How one kind of transformer is recognised, configured and built.

    Args:
        purpose: what a file of it is used as, for messages.
        mark: the weight that it is known by.
        class_names: what the `_class_name` of its config.json may be.
        recognises: whether names without prefix, `mark` among them, are its own.
        translate: settings to the same settings under our own names, without defaults.
        config_of: (shapes, own settings, the caller's, place=) to its config.
        remark: (config, settings of the file, settings of the caller) to a warning, or "".
        make: its class; called with a config, operations, dtype and device.
    """

    purpose: str
    mark: str
    class_names: tuple[str, ...]
    recognises: Callable[[Collection[str]], bool]
    translate: Callable[[Mapping[str, Any]], dict[str, Any]]
    config_of: Callable[..., Config]
    remark: Callable[[Any, Mapping[str, Any], Mapping[str, Any]], str]
    make: Callable[..., Model]

    def owns_config(self, values: Mapping[str, Any]) -> bool:
        """Return whether a config.json can be this architecture's, judged by its class name."""
        return is_config_of(self.class_names, values)


def find_architecture(names: Collection[str]) -> tuple[Architecture, Selection] | None:
    """Return the transformer that a file holds, with its names in the file, or None.

    A Latte with parts that no Latte has, see `derivatives.py`, is none.

    Raises:
        WeightMismatchError: if two names of the file become the same without prefixes.
    """
    if has_skips(names):
        return None
    for architecture in ARCHITECTURES:
        selection = select_model(names, architecture.mark)
        if selection is not None and architecture.recognises(selection.names):
            return architecture, selection
    return None


def remark_on_heads(
    config: LatteT2VConfig, own: Mapping[str, Any], given: Mapping[str, Any]
) -> str:
    """Say that a head count was assumed, where the width is not the released one."""
    if states_heads({**own, **given}) or config.hidden_size == RELEASED_T2V.hidden_size:
        return ""
    return (
        f"It does not say how many attention heads it has; {config.num_attention_heads} are "
        "assumed. If the result is wrong, put its config.json beside it."
    )


def remark_on_variant(config: LatteConfig, own: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Say that weights are used as another variant than their file says they are."""
    saved = own.get("variant", 1)
    if config.variant == saved:
        return ""
    return (
        f"It holds weights of variant {saved}{'' if 'variant' in own else ', as far as it says'}, "
        f"and they are used as variant {config.variant}, as the config asks. Both have the same "
        "names and other blocks; without training the result is noise."
    )


T2V = Architecture(
    purpose="a text-to-video transformer",
    mark=T2V_MARK,
    class_names=T2V_CLASS_NAMES,
    recognises=lambda names: True,
    translate=dict,
    config_of=t2v_config_of,
    remark=remark_on_heads,
    make=LatteT2V,
)
LATTE = Architecture(
    purpose="a class-conditional or unconditional Latte model",
    mark=LATTE_MARK,
    class_names=LATTE_CLASS_NAMES,
    recognises=looks_like_latte,
    translate=LatteConfig.translate,
    config_of=latte_config_of,
    remark=remark_on_variant,
    make=Latte,
)
ARCHITECTURES = (T2V, LATTE)
