"""What precisions are called, in a module that imports nothing."""

from __future__ import annotations

FP8_NAME, INT8_NAME, INT4_NAME = "fp8", "int8", "int4"
ACCUMULATION = "fp16-acc"  # sums of products in float16
TEXT_PRECISIONS = (FP8_NAME, INT8_NAME, INT4_NAME)  # the last for text encoders alone
PRECISIONS = (FP8_NAME, INT8_NAME, ACCUMULATION)

# How products of eight-bit layers are made
TRITON = "triton"  # by our own kernel, which scales and rounds within
SCALED_MM, INT_MM = "scaled_mm", "int_mm"  # by torch's, of fp8 and of int8
EMULATED = "emulated"  # rounded as in hardware, multiplied in float32
UNPACKED = "unpacked"  # by the weight that the numbers mean, in the type of the run
