"""Latte for ComfyUI: native models, their nodes, and starters that run at once."""

from __future__ import annotations

if __package__:  # pytest imports this file by itself, without a package around it
    from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
    from .nodes.host.model.registration import register_at_import

    WEB_DIRECTORY = "./web"
    __all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]

    register_at_import()
