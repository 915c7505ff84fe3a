"""ComfyUI's progress bar and cancel button, as latte_core's loops want them."""

from __future__ import annotations

from typing import Any


def check_cancelled() -> None:
    """Raise ComfyUI's own interrupt if the user pressed cancel; nobody may catch it."""
    import comfy.model_management

    comfy.model_management.throw_exception_if_processing_interrupted()


def progress_bar(total: int) -> Any:
    """Return ComfyUI's progress bar for the node that is running."""
    import comfy.utils

    return comfy.utils.ProgressBar(total)
