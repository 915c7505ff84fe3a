"""ComfyUI nodes of this pack; ids and widget orders never change (tests/data/nodes.json)."""

from __future__ import annotations

from .acceleration.accelerate import LatteAccelerate
from .acceleration.calibrate import LatteCalibrate
from .acceleration.compile import LatteCompile
from .acceleration.precision import LattePrecision
from .conditioning.text_encode import LatteClassLabel, LatteTextEncode, LatteUnconditional
from .latents.empty_latent import LatteEmptyLatent, LatteVAEDecode
from .loaders.model_loader import (
    LatteLoraLoader,
    LatteModelLoader,
    LatteTextEncoderLoader,
    LatteVAELoader,
)
from .sampling.sampler import LatteNoise, LatteSampler, LatteScheduler
from .training.train import LatteTrain
from .training.training_status import LatteStopTraining, LatteTrainingStatus

NODE_CLASS_MAPPINGS = {
    "LatteModelLoader": LatteModelLoader,
    "LatteTextEncoderLoader": LatteTextEncoderLoader,
    "LatteVAELoader": LatteVAELoader,
    "LatteLoraLoader": LatteLoraLoader,
    "LatteTextEncode": LatteTextEncode,
    "LatteEmptyLatent": LatteEmptyLatent,
    "LatteSampler": LatteSampler,
    "LatteScheduler": LatteScheduler,
    "LatteNoise": LatteNoise,
    "LatteVAEDecode": LatteVAEDecode,
    "LatteClassLabel": LatteClassLabel,
    "LatteUnconditional": LatteUnconditional,
    "LatteTrain": LatteTrain,
    "LatteTrainingStatus": LatteTrainingStatus,
    "LatteStopTraining": LatteStopTraining,
    "LatteAccelerate": LatteAccelerate,
    "LatteCompile": LatteCompile,
    "LatteCalibrate": LatteCalibrate,
    "LattePrecision": LattePrecision,
}

NODE_DISPLAY_NAME_MAPPINGS = {
    "LatteModelLoader": "Latte Model Loader",
    "LatteTextEncoderLoader": "Latte Text Encoder Loader",
    "LatteVAELoader": "Latte VAE Loader",
    "LatteLoraLoader": "Latte LoRA Loader",
    "LatteTextEncode": "Latte Text Encode",
    "LatteEmptyLatent": "Empty Latte Latent",
    "LatteSampler": "Latte Sampler",
    "LatteScheduler": "Latte Scheduler",
    "LatteNoise": "Latte Noise",
    "LatteVAEDecode": "Latte VAE Decode",
    "LatteClassLabel": "Latte Class Label",
    "LatteUnconditional": "Latte Unconditional",
    "LatteTrain": "Latte Train",
    "LatteTrainingStatus": "Latte Training Status",
    "LatteStopTraining": "Latte Stop Training",
    "LatteAccelerate": "Latte Accelerate",
    "LatteCompile": "Latte Compile",
    "LatteCalibrate": "Latte Calibrate",
    "LattePrecision": "Latte Precision",
}
