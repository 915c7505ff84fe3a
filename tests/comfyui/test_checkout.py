"""Say in one line that ComfyUI is missing, when it is."""

from __future__ import annotations

import pytest
from latte_test_support.comfy import server as comfy_server


@pytest.mark.comfyui
def test_a_comfyui_checkout_is_there() -> None:
    if not comfy_server.checkouts():
        pytest.skip(
            "nothing in tests/comfyui ran: put ComfyUI into ~/comfy/ComfyUI, or set COMFYUI_PATH "
            "to checkouts and COMFYUI_PYTHON to the Python that has their requirements"
        )
    missing = [path for path in comfy_server.checkouts() if not (path / "main.py").is_file()]
    assert not missing, f"COMFYUI_PATH names folders without main.py: {missing}"
