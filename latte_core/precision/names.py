"""What precisions are called, in a module that imports nothing."""

from __future__ import annotations

FP8_NAME, INT8_NAME, INT4_NAME = "fp8", "int8", "int4"
ACCUMULATION = "fp16-acc"  # sums of products in float16
TEXT_PRECISIONS = (FP8_NAME, INT8_NAME, INT4_NAME)  # the last for text encoders alone
PRECISIONS = (FP8_NAME, INT8_NAME, ACCUMULATION)
