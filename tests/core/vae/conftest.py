"""Both tiny VAEs, ours and diffusers', shared by the tests of a file."""

from __future__ import annotations

from typing import Any

import pytest
from latte_test_support.tiny import vae as tiny_vae
from latte_test_support.vae_cases import make_vae

from latte_core.vae.frames import VideoVAE


@pytest.fixture(scope="module")
def references() -> dict[bool, Any]:
    return {temporal: tiny_vae.make_reference(temporal=temporal) for temporal in (False, True)}


@pytest.fixture(scope="module")
def vaes() -> dict[bool, VideoVAE]:
    return {temporal: make_vae(temporal) for temporal in (False, True)}
