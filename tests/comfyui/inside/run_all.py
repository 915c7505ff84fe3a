"""Run the checks of all files in one process of ComfyUI, on one set of loaded models."""

from __future__ import annotations

import acceleration
import border
import class_border
import class_native
import class_sampling
import lora
import native
import registration
import sampling
import stock_nodes
from host import run

MODULES = (
    *(native, sampling, stock_nodes, registration, border),
    *(class_native, class_sampling, class_border, lora, acceleration),
)
run({name: value for module in MODULES for name, value in vars(module).items()})
