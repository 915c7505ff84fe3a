"""ComfyUI nodes of this pack; ids and widget orders never change (tests/data/nodes.json).

Each node is one file, in the folder of its menu, and one line here. Tools that list the nodes of
packs read that line without running it.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def part(name: str) -> ModuleType:
    """Import a file of this folder."""
    return import_module(f".{name}", __name__)


NODE_CLASS_MAPPINGS = {
    "LatteModelLoader": part("loaders.model_loader").LatteModelLoader,
    "LatteTextEncoderLoader": part("loaders.text_encoder_loader").LatteTextEncoderLoader,
    "LatteVAELoader": part("loaders.vae_loader").LatteVAELoader,
    "LatteLoraLoader": part("loaders.lora_loader").LatteLoraLoader,
    "LatteTextEncode": part("conditioning.text_encode").LatteTextEncode,
    "LatteEmptyLatent": part("latents.empty_latent").LatteEmptyLatent,
    "LatteSampler": part("sampling.sampler").LatteSampler,
    "LatteScheduler": part("sampling.scheduler").LatteScheduler,
    "LatteNoise": part("sampling.noise").LatteNoise,
    "LatteVAEDecode": part("latents.vae_decode").LatteVAEDecode,
    "LatteClassLabel": part("conditioning.class_label").LatteClassLabel,
    "LatteUnconditional": part("conditioning.unconditional").LatteUnconditional,
    "LatteTrain": part("training.train").LatteTrain,
    "LatteTrainingStatus": part("training.training_status").LatteTrainingStatus,
    "LatteStopTraining": part("training.stop_training").LatteStopTraining,
    "LatteAccelerate": part("acceleration.accelerate").LatteAccelerate,
    "LatteCompile": part("acceleration.compile").LatteCompile,
    "LatteCalibrate": part("acceleration.calibrate").LatteCalibrate,
    "LattePrecision": part("acceleration.precision").LattePrecision,
}

NODE_DISPLAY_NAME_MAPPINGS = {
    node_id: node.DISPLAY_NAME for node_id, node in NODE_CLASS_MAPPINGS.items()
}
