"""Teach ComfyUI's own loaders what a Latte file is (documented in the README, reversible).

Functions of ComfyUI are wrapped, never replaced: `comfy.model_detection.detect_unet_config`, so
that "Load Diffusion Model", checkpoint loaders and third-party loaders recognise Latte (without it
they open Latte-1 as a PixArt image model), and three that LoRA loaders and hooks call, so that
files of every trainer mean on a Latte what they say (`lora_keys.py`). `LATTE_NO_REGISTER=1` in the
environment leaves all of them alone.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..base.detection import detect

logger = logging.getLogger("latte")

Wrapping = Callable[[Callable[..., Any]], Callable[..., Any]]

SWITCH = "LATTE_NO_REGISTER"
MARK = "_latte_video_wrapper"
# Config classes of ours: name -> end of the name of its module.
OWN_CONFIGS = {"LatteConfig": "nodes.host.model.t2v", "LatteClassConfig": "nodes.host.model.latte"}


def register_at_import() -> None:
    """Register once when the pack is imported inside ComfyUI; never fail the import."""
    if os.environ.get(SWITCH, "") not in ("", "0"):
        logger.info("Latte: not registered with ComfyUI's loaders because %s is set.", SWITCH)
        return
    if importlib.util.find_spec("comfy") is None:
        return
    try:
        added = register()
    except (ImportError, AttributeError, TypeError) as error:
        unregister_quietly()
        logger.warning(
            "Latte: this ComfyUI could not be taught to recognise Latte files (%s: %s). "
            '"Latte Model Loader" still opens them.',
            type(error).__name__,
            error,
        )
        return
    if added:
        logger.info(
            "Latte: ComfyUI's model and LoRA loaders recognise Latte files (%s=1 turns it off).",
            SWITCH,
        )


def register() -> bool:
    """Add Latte's config classes and wrap detection and the reading of LoRAs.

    Returns:
        False when ComfyUI brings a Latte of its own, which then wins; True otherwise.
    """
    import comfy.supported_models

    from .latte import LatteClassConfig
    from .t2v import LatteConfig

    models = comfy.supported_models.models
    if any(is_of_comfy(candidate) for candidate in models):
        return False
    for config in (LatteConfig, LatteClassConfig):
        replace_or_append(models, config)
    for module, name, make in wrapped_functions():
        wrap(module, name, make)
    return True


def wrapped_functions() -> tuple[tuple[ModuleType, str, Wrapping], ...]:
    """Return what is wrapped: the module, the name of the function, what makes its wrapper."""
    import comfy.lora
    import comfy.model_detection
    import comfy.utils

    from .lora_keys import names_added, read_first, settings_kept

    return (
        (comfy.model_detection, "detect_unet_config", detection_first),
        (comfy.utils, "load_torch_file", settings_kept),
        (comfy.lora, "model_lora_keys_unet", names_added),
        (comfy.lora, "load_lora", read_first),
    )


def unregister() -> None:
    """Undo `register`; a wrapper that another pack put on top of ours is left as it is."""
    import comfy.supported_models

    models = comfy.supported_models.models
    models[:] = [candidate for candidate in models if not is_ours(candidate)]
    for module, name, _ in wrapped_functions():
        unwrap(module, name)


def unregister_quietly() -> None:
    """Undo what a failed registration may have done."""
    try:
        unregister()
    except (ImportError, AttributeError):
        logger.debug("Latte: nothing was registered.")


def is_of_comfy(candidate: Any) -> bool:
    """Whether ComfyUI itself ships this Latte."""
    return candidate.__module__.startswith("comfy.") and "latte" in candidate.__name__.lower()


def is_ours(candidate: Any) -> bool:
    """Whether a config class is ours, also from an earlier import of this pack."""
    module = OWN_CONFIGS.get(candidate.__qualname__)
    return module is not None and candidate.__module__.endswith(module)


def replace_or_append(models: list[Any], config: Any) -> None:
    """Put a class of ours where an older copy stands, else at the end; a list holds it once."""
    places = [
        index
        for index, candidate in enumerate(models)
        if is_ours(candidate) and candidate.__qualname__ == config.__qualname__
    ]
    if not places:
        models.append(config)
        return
    models[places[0]] = config
    for index in reversed(places[1:]):
        del models[index]


def wrap(module: ModuleType, name: str, make: Callable[[Any], Any]) -> None:
    """Wrap `module.name` once; a second import of the pack takes its own wrapper's place."""
    current = getattr(module, name)
    if is_our_wrapper(current):
        current = current.__wrapped__
    elif wrapped_by_us(current):
        return  # another pack wrapped ours: its chain already asks us
    wrapper = functools.wraps(current)(make(current))
    setattr(wrapper, MARK, wrapper)
    setattr(module, name, wrapper)


def unwrap(module: ModuleType, name: str) -> None:
    """Restore `module.name` if the outermost wrapper is ours."""
    current: Any = getattr(module, name, None)
    if is_our_wrapper(current):
        setattr(module, name, current.__wrapped__)


def is_our_wrapper(function: Any) -> bool:
    """Whether this very function is ours: `functools.wraps` copies attributes to foreign ones."""
    return getattr(function, MARK, None) is function


def wrapped_by_us(function: Any) -> bool:
    """Walk a chain of `functools.wraps` in search of our wrapper."""
    while function is not None:
        if is_our_wrapper(function):
            return True
        function = getattr(function, "__wrapped__", None)
    return False


def detection_first(original: Callable[..., Any]) -> Callable[..., Any]:
    """Ask for Latte first: behind the original it would be taken for PixArt."""

    def detect_unet_config(state_dict: Any, key_prefix: str, *args: Any, **kwargs: Any) -> Any:
        metadata = kwargs.get("metadata", args[0] if args else None)
        found = detect(state_dict, key_prefix, metadata)
        return original(state_dict, key_prefix, *args, **kwargs) if found is None else found

    return detect_unet_config
