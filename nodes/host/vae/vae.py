"""Latte's two VAEs as ComfyUI VAE objects, in the sizes of the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import torch
from comfy.ldm.models.autoencoder import AutoencodingEngine
from torch import Tensor, nn

from ....latte_core.checkpoint.loading.adapters import temporal_vae_to_svd
from ....latte_core.checkpoint.reading.reader import read_tensors
from ....latte_core.checkpoint.recognition.identify import require_vae
from ....latte_core.checkpoint.recognition.vaes import vae_settings
from ....latte_core.errors import IncompatibleInputsError, WeightMismatchError
from ....latte_core.shipped import VAE_FOLDERS
from ....latte_core.vae.config import TEMPORAL_GROUPS
from ....latte_core.vae.names import as_matrix, present_names

OUTER_PARTS = ("quant_conv.", "post_quant_conv.")
TEMPORAL_MARK = "decoder.mid.block_1.mix_factor"
SECOND_MID_BLOCK = "decoder.mid.block_2.conv1.weight"
REGULARIZER = "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"
ENCODER = "comfy.ldm.modules.diffusionmodules.model.Encoder"
DECODER = "comfy.ldm.modules.temporal_ae.VideoDecoder"


class PassThrough(nn.Module):
    """Stands where a decoder with one layer per block has nothing between its ends."""

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return the input."""
        return hidden


class TemporalVAE(AutoencodingEngine):
    """ComfyUI's image encoder with its video decoder, in the sizes of a given file.

    Args:
        sizes: what `autoencoder_sizes` found.
        has_quant_conv: whether moments pass a 1x1 convolution, as in diffusers' layout.
        has_mid_pair: whether attention and a second block follow the first one in the middle.
    """

    def __init__(self, sizes: dict[str, Any], *, has_quant_conv: bool, has_mid_pair: bool) -> None:
        video = {**sizes, "video_kernel_size": [3, 1, 1], "alpha": 0.0}
        super().__init__(
            regularizer_config={"target": REGULARIZER},
            encoder_config={"target": ENCODER, "params": sizes},
            decoder_config={"target": DECODER, "params": video},
        )
        moments = 2 * sizes["z_channels"]
        self.quant_conv = make_conv(moments) if has_quant_conv else PassThrough()
        if not has_mid_pair:
            self.decoder.mid.attn_1 = PassThrough()
            self.decoder.mid.block_2 = PassThrough()

    def encode(self, x: Tensor, return_reg_log: bool = False, **_: Any) -> Any:
        """(N, 3, H, W) in [-1, 1] -> (N, 4, h, w): the mode of the posterior."""
        z, log = self.regularization(self.quant_conv(self.encoder(x)))
        return (z, log) if return_reg_log else z


def make_conv(channels: int) -> nn.Module:
    """Return a 1x1 convolution whose weights ComfyUI may cast and move."""
    import comfy.ops

    return comfy.ops.disable_weight_init.Conv2d(channels, channels, 1)


def load_vae(path: Path, kind: str) -> Any:
    """Open a VAE from a Latte-1 style folder or from one file, in any names it is published in.

    Args:
        path: folder or file.
        kind: "temporal", "image", or "auto": temporal where there is one.

    Raises:
        CheckpointError: for a file that cannot be read or is not whole.
        UnknownArchitectureError: for other weights, naming what they are.
        IncompatibleInputsError: if a file is of the other kind.
    """
    weights = part_folder(path, kind) if path.is_dir() else path
    require_vae(weights)
    check_groups(weights)
    tensors = to_svd_names(read_tensors(weights).tensors)
    found = "temporal" if TEMPORAL_MARK in tensors else "image"
    if kind not in ("auto", found):
        raise IncompatibleInputsError(
            f"{path.name} holds a VAE of the kind {found}, but kind is set to {kind}. Set kind to "
            f"{found} or auto, or choose another file."
        )
    vae = build_temporal(tensors) if found == "temporal" else build_image(tensors)
    vae.patcher.cached_patcher_init = (reopen_patcher, (str(path), kind))
    return vae


def part_folder(folder: Path, kind: str) -> Path:
    """Return where a Latte-1 style folder keeps the VAE of this kind."""
    wanted = list(VAE_FOLDERS.values()) if kind == "auto" else [VAE_FOLDERS[kind]]
    present = [folder / name for name in wanted if (folder / name).is_dir()]
    return present[0] if present else folder / wanted[0]


def reopen_patcher(path: str, kind: str, disable_dynamic: bool = False) -> Any:
    """Load the VAE again for ComfyUI's device selectors (`cached_patcher_init`)."""
    return load_vae(Path(path), kind).patcher


def to_svd_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a VAE of any layout to the names ComfyUI's autoencoders are written in.

    A prefix in front of every name, as in all-in-one files, is removed.
    """
    weights = {
        short: as_matrix(short, tensors[name]) for short, name in present_names(tensors).items()
    }
    outer = {name: value for name, value in weights.items() if name.startswith(OUTER_PARTS)}
    inner = {name: value for name, value in weights.items() if name not in outer}
    return {**temporal_vae_to_svd(inner), **outer}


def check_groups(path: Path) -> None:
    """Refuse a config that asks for another number of groups than ComfyUI's autoencoders have.

    Raises:
        IncompatibleInputsError: with both numbers.
    """
    groups = (vae_settings(path) or {}).get("norm_num_groups", TEMPORAL_GROUPS)
    if groups != TEMPORAL_GROUPS:
        raise IncompatibleInputsError(
            f"{path.name} has {groups} groups in its norms by its config.json, but ComfyUI's VAE "
            f"has {TEMPORAL_GROUPS}, so its pictures would be wrong. Use it on the command line or "
            "choose another VAE."
        )


def autoencoder_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read an autoencoder's widths and depths from its encoder.

    Raises:
        WeightMismatchError: if there is no encoder to read them from.
    """
    if "encoder.conv_in.weight" not in tensors or "decoder.conv_in.weight" not in tensors:
        raise WeightMismatchError(
            "The VAE file has no encoder or no decoder. Choose the whole VAE, for example "
            "diffusion_pytorch_model.safetensors of the folder vae."
        )
    base = int(tensors["encoder.conv_in.weight"].shape[0])
    widths: list[int] = []
    while (first := f"encoder.down.{len(widths)}.block.0.conv1.weight") in tensors:
        widths.append(int(tensors[first].shape[0]))
    layers = 0
    while f"encoder.down.0.block.{layers}.conv1.weight" in tensors:
        layers += 1
    return {
        "double_z": True,
        "z_channels": int(tensors["decoder.conv_in.weight"].shape[1]),
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": base,
        "ch_mult": [width // base for width in widths],
        "num_res_blocks": layers,
        "attn_resolutions": [],
        "dropout": 0.0,
    }


def build_image(tensors: dict[str, Tensor]) -> Any:
    """Make an image VAE of the file's own sizes."""
    return comfy.sd.VAE(sd=tensors, config=image_config(tensors))


def image_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the `config` that `comfy.sd.VAE` takes for an AutoencoderKL."""
    sizes = autoencoder_sizes(tensors)
    return {"params": {"ddconfig": sizes, "embed_dim": sizes["z_channels"]}}


def build_temporal(tensors: dict[str, Tensor]) -> Any:
    """Make a temporal VAE of the file's own sizes.

    `comfy.sd.VAE` builds video decoders in one size only, so it is given the image half, which has
    the same names, and then the module and its patcher are exchanged.

    Raises:
        WeightMismatchError: if weights are missing.
    """
    sizes = autoencoder_sizes(tensors)
    has_mid_pair = SECOND_MID_BLOCK in tensors
    has_quant_conv = "quant_conv.weight" in tensors
    module = TemporalVAE(sizes, has_quant_conv=has_quant_conv, has_mid_pair=has_mid_pair).eval()
    expected = module.state_dict()
    kept = {name: tensors[name] for name in expected if name in tensors}
    missing = [name for name in expected if name not in kept]
    if missing:
        raise WeightMismatchError(
            f"The temporal VAE lacks {len(missing)} of {len(expected)} weights, the first is "
            f"{missing[0]}. It is not whole; download it again."
        )
    vae = comfy.sd.VAE(sd=complete_image_half(tensors, sizes), config=image_config(tensors))
    exchange_module(vae, module, kept)
    return vae


def complete_image_half(tensors: dict[str, Tensor], sizes: dict[str, Any]) -> dict[str, Tensor]:
    """Return an image VAE's weights: those of the file, zeros where an image VAE has more."""
    with torch.device("meta"):
        from comfy.ldm.models.autoencoder import AutoencoderKL

        shapes = AutoencoderKL(ddconfig=sizes, embed_dim=sizes["z_channels"]).state_dict()
    return {
        name: tensors[name] if name in tensors else torch.zeros(value.shape)
        for name, value in shapes.items()
    }


def exchange_module(vae: Any, module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put another module into a VAE, with a patcher of the same kind and the same devices."""
    old = vae.patcher
    module.to(vae.vae_dtype)
    archive = getattr(comfy.model_management, "archive_model_dtypes", None)
    if archive is not None:
        archive(module)
    patcher = type(old)(module, load_device=old.load_device, offload_device=old.offload_device)
    dynamic = hasattr(patcher, "is_dynamic") and patcher.is_dynamic()
    module.load_state_dict(tensors, strict=True, **({"assign": True} if dynamic else {}))
    vae.first_stage_model = module
    vae.patcher = patcher
    vae.size = None
    vae.model_size()
