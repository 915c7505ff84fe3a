"""Run the checks of all files in one process of ComfyUI, on one set of loaded models."""

from __future__ import annotations

import border
import native
import registration
import sampling
import stock_nodes
from host import run

run({**vars(native), **vars(sampling), **vars(stock_nodes), **vars(registration), **vars(border)})
