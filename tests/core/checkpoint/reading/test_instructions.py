"""Reading pickle instructions that no weights file has."""

from __future__ import annotations

from io import BytesIO

import pytest

from latte_core.checkpoint.reading.instructions import PickleReader
from latte_core.checkpoint.reading.outline import MalformedPickleError, Outline


def test_a_name_with_an_unknown_escape_is_malformed_and_never_a_warning() -> None:
    pickled = b"\x80\x02ctorch\nF\\q\n."  # GLOBAL "torch" "F\q"
    with pytest.raises(MalformedPickleError, match="an instruction that cannot be read"):
        PickleReader(Outline()).run(BytesIO(pickled))
