"""Run the checks of all files in one process of ComfyUI, on one set of loaded models."""

from __future__ import annotations

import acceleration
import accelerators
import border
import calibration
import class_border
import class_native
import class_sampling
import compiled
import decoding
import guidance
import launches
import lora
import lora_hosts
import native
import precision
import registration
import sampling
import shipped
import small_memory
import stock_nodes
import text_memory
from host import run

MODULES = (
    *(native, sampling, stock_nodes, registration, border),
    compiled,
    precision,
    *(class_native, class_sampling, class_border, lora, lora_hosts, launches),
    *(acceleration, calibration),
    *(guidance, accelerators, shipped, text_memory, small_memory, decoding),
)
run({name: value for module in MODULES for name, value in vars(module).items()})
