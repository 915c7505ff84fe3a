"""A folder in Latte-1's layout with random weights, made on the device part by part when needed.

Nothing is downloaded: tokenizer, schedule and the rest of every config are the starter's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring.core import import_core
from torch import Tensor, nn
from ways.transformer import LATTE_1

from gpu_sections.sizes import Sizes

TRANSFORMER, TEXT = "transformer", "text_encoder"
VAES = {"temporal": "vae_temporal_decoder", "image": "vae"}
COPIED = ("tokenizer", "scheduler", "model_index.json")
FILES = {TEXT: "model.safetensors"}
OTHER_FILE = "diffusion_pytorch_model.safetensors"
SPARE_BYTES = 2**30  # of a disk


class ModelFolder:
    """Random weights of one size on disk.

    Args:
        path: of an empty folder.
        sizes: of the parts.
        device: makes the numbers.
        dtype: of the weights.
    """

    def __init__(self, path: Path, sizes: Sizes, device: str, dtype: torch.dtype) -> None:
        self.path = path
        self._sizes, self._device, self._dtype = sizes, device, dtype
        starter, _ = import_core("pipelines.model_folders").locate("starter")
        self._starter = Path(starter).parent
        self._makers: dict[str, Callable[[], tuple[dict[str, Any], nn.Module]]] = {
            TRANSFORMER: self._transformer,
            TEXT: self._text_encoder,
            VAES["temporal"]: lambda: self._vae("temporal"),
            VAES["image"]: lambda: self._vae("image"),
        }

    def whole(self) -> Path:
        """Return the folder with everything in it."""
        for name in self._makers:
            self.part(name)
        for name in COPIED:
            source, target = self._starter / name, self.path / name
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(source, target)
        return self.path

    def part(self, name: str) -> Path:
        """Return the folder of one part."""
        folder = self.path / name
        if not folder.is_dir():
            config, module = self._makers[name]()
            self._write(folder, FILES.get(name, OTHER_FILE), module)
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return folder

    def _write(self, folder: Path, name: str, module: nn.Module) -> None:
        """Write random numbers in the place of a module's empty weights."""
        writer = import_core("checkpoint.writing.writer")
        draws = torch.Generator(self._device).manual_seed(0)
        kinds = {id(one.weight) for one in module.modules() if is_norm(one)}
        whole = {
            key: random_like(one, draws, self._dtype, is_scale=id(one) in kinds)
            for key, one in module.named_parameters()
        }
        ordered = writer.order(whole)
        needed, free = writer.num_bytes_of(ordered), shutil.disk_usage(self.path).free
        if needed + SPARE_BYTES > free:
            raise OSError(
                f"{name} has {needed / 1e9:.1f} GB, and the disk of {self.path} has only "
                f"{free / 1e9:.1f} GB free. Name a folder on another disk with --scratch."
            )
        folder.mkdir(parents=True)
        with (folder / name).open("wb") as handle:
            writer.write_all(handle, writer.header_bytes(ordered, {"format": "pt"}), ordered)

    def _config(self, name: str) -> dict[str, Any]:
        return json.loads((self._starter / name / "config.json").read_text(encoding="utf-8"))

    def _transformer(self) -> tuple[dict[str, Any], nn.Module]:
        config = {
            **self._config(TRANSFORMER),
            **transformer_config(self._sizes),
            "video_length": self._sizes.frames,  # diffusers' class goes by it
        }
        with torch.device("meta"):
            return config, import_core("model.t2v.transformer").LatteT2V.from_config(config)

    def _text_encoder(self) -> tuple[dict[str, Any], nn.Module]:
        from transformers import T5Config, T5EncoderModel

        known = {**self._config(TEXT), **self._sizes.text, "vocab_size": self._sizes.words}
        with torch.device("meta"):
            return known, T5EncoderModel(T5Config(**known))

    def _vae(self, kind: str) -> tuple[dict[str, Any], nn.Module]:
        import diffusers

        config = {**self._config(VAES[kind]), **self._sizes.vae}
        make = getattr(diffusers, config["_class_name"])
        with torch.device("meta"):
            return config, make(**{key: config[key] for key in config if key[0] != "_"})


def transformer_config(sizes: Sizes) -> dict[str, Any]:
    """Return Latte-1's config with other sizes."""
    width = sizes.heads * LATTE_1["attention_head_dim"]
    return {
        **LATTE_1,
        "num_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "cross_attention_dim": width,
        "caption_channels": sizes.text_width,
        "sample_size": sizes.side,
    }


def is_norm(module: nn.Module) -> bool:
    """Whether the weight of a module multiplies, one number for each channel."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 1


def random_like(like: Tensor, draws: torch.Generator, dtype: torch.dtype, *, is_scale: bool) -> Any:
    """Return random weights that keep what goes through them about as large as it was.

    Args:
        like: has the shape.
        draws: whose device makes them.
        dtype: of the result.
        is_scale: they are near 1, not near 0.
    """
    fan_in = like[0].numel() if like.ndim > 1 else 1
    made = torch.empty(like.shape, dtype=dtype, device=draws.device)
    if like.ndim > 1:
        return made.normal_(std=fan_in**-0.5, generator=draws)
    return made.normal_(mean=float(is_scale), std=0.02, generator=draws)
