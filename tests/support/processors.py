"""What the processor under the tests can do."""

from __future__ import annotations

import torch

from latte_core.precision.matmul import whole_product


def int8_is_exact() -> bool:
    """Return whether int8 products are summed without overflow, which takes VNNI, AMX or the like.

    Elsewhere the library unpacks weights, and tests of that product have nothing to test.
    """
    largest = torch.full((32, 64), 127, dtype=torch.int8)
    return bool((whole_product(largest, largest) == 127 * 127 * 64).all())
