"""What precisions are called, in a module that imports nothing."""

from __future__ import annotations

FP8_NAME, INT8_NAME = "fp8", "int8"
ACCUMULATION = "fp16-acc"  # sums of products in float16
TEXT_PRECISIONS = (FP8_NAME, INT8_NAME)
PRECISIONS = (*TEXT_PRECISIONS, ACCUMULATION)
