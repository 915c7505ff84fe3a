"""T5 as a ComfyUI CLIP: opened from a folder or a file, with its own tokenizer and the mask on."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.text_encoders.t5
import comfy.utils
import folder_paths
import torch
from comfy import sd1_clip
from comfy.supported_models_base import ClipTarget
from torch import Tensor

from ....latte_core.checkpoint.reading.reader import read_tensors
from ....latte_core.checkpoint.recognition.identify import require_t5
from ....latte_core.text.config import T5EncoderConfig, check_complete, check_is_t5
from ....latte_core.text.layouts import encoder_tensors
from ....latte_core.text.tokenizer import END_ID, PAD_ID, PromptTokenizer
from ....latte_core.types import TEXT_TOKENS

logger = logging.getLogger("latte")

NAME = "t5xxl"  # what ComfyUI calls a T5 in tokens, LoRA names and files
SHIPPED_TOKENIZER = Path(comfy.text_encoders.t5.__file__).parent / "t5_tokenizer"
UNUSED_NAMES = ("encoder.embed_tokens.weight", "spiece_model", "lm_head.weight")
EMBEDDING_WORD = re.compile(r"(\bembedding:\S+)")


class LatteT5(sd1_clip.SDClipModel):
    """ComfyUI's T5 with the attention mask on, so that padding rows are those of the reference."""

    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
        options = dict(model_options or {})
        config = options.pop("latte_t5_config")
        quantisation = options.pop("latte_t5_quantisation", None)
        if quantisation is not None:
            options["quantization_metadata"] = quantisation
        super().__init__(
            device=device,
            dtype=dtype,
            layer="last",
            textmodel_json_config=config,
            special_tokens={"end": END_ID, "pad": PAD_ID},
            model_class=comfy.text_encoders.t5.T5,
            enable_attention_masks=True,
            return_attention_masks=False,
            model_options={**options, "model_name": NAME},
        )


def encoder_class(config: T5EncoderConfig, stored_dtype: Any, quantisation: Any) -> type:
    """Make the class that `comfy.sd.CLIP` instantiates for weights of this shape and dtype."""

    class LatteTextModel(sd1_clip.SD1ClipModel):
        def __init__(
            self, device: Any = "cpu", dtype: Any = None, model_options: Any = None
        ) -> None:
            options = {
                **(model_options or {}),
                "latte_t5_config": t5_settings(config),
                "latte_t5_quantisation": quantisation,
            }
            super().__init__(
                device=device,
                dtype=stored_dtype or dtype,
                name=NAME,
                clip_model=LatteT5,
                model_options=options,
            )

    return LatteTextModel


def t5_settings(config: T5EncoderConfig) -> dict[str, Any]:
    """Return the settings that ComfyUI's T5 reads."""
    return {
        "d_ff": config.d_ff,
        "d_kv": config.d_kv,
        "d_model": config.d_model,
        "dense_act_fn": "gelu_pytorch_tanh",
        "is_gated_act": True,
        "model_type": "t5",
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
        "vocab_size": config.vocab_size,
    }


def tokenizer_class(folder: Path, width: int) -> type:
    """Make the tokenizer class for ComfyUI's text nodes: no padding, lower case, 120 tokens."""

    class LatteT5Tokenizer(sd1_clip.SDTokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
            transformers: Any = import_module("transformers")
            super().__init__(
                str(folder),
                embedding_directory=embedding_directory,
                pad_with_end=False,
                embedding_size=width,
                embedding_key=NAME,
                tokenizer_class=transformers.T5TokenizerFast,
                has_start_token=False,
                pad_to_max_length=False,
                max_length=99999999,
                min_length=1,
                tokenizer_data=tokenizer_data or {},
            )

        def tokenize_with_weights(
            self, text: str, return_word_ids: bool = False, **kwargs: Any
        ) -> Any:
            batches = super().tokenize_with_weights(lower(text), return_word_ids, **kwargs)
            return [cut(batch) for batch in batches]

    class LatteTokenizer(sd1_clip.SD1Tokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
            super().__init__(
                embedding_directory=embedding_directory,
                tokenizer_data=tokenizer_data or {},
                clip_name=NAME,
                tokenizer=LatteT5Tokenizer,
            )

    return LatteTokenizer


def lower(text: str) -> str:
    """Lower-case and strip, as prompts were in training; names of embeddings keep their case.

    Lone surrogates, which JSON carries and tokenizers refuse, are replaced.
    """
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    parts = EMBEDDING_WORD.split(text)
    return "".join(
        part if EMBEDDING_WORD.fullmatch(part) else part.lower() for part in parts
    ).strip()


def cut(batch: list[Any]) -> list[Any]:
    """Keep 120 tokens, the last of them the end token; say so once."""
    if len(batch) <= TEXT_TOKENS:
        return batch
    logger.warning(
        "Latte: the prompt has %d tokens but only the first %d are used.", len(batch), TEXT_TOKENS
    )
    return [*batch[: TEXT_TOKENS - 1], batch[-1]]


def load_clip(path: Path, device: str) -> Any:
    """Open a text encoder as a CLIP.

    Args:
        path: a Latte-1 style folder, or a single T5 file (fp32, fp16, bf16, fp8, scaled fp8).
        device: "default" or "cpu".

    Raises:
        CheckpointError: for a file that cannot be read or is not whole.
        UnknownArchitectureError: for umT5, CLIP and others, by name.
        IncompatibleInputsError: if tokenizer and encoder do not belong together.
    """
    weights = path / "text_encoder" if path.is_dir() else path
    tokenizer = path / "tokenizer" if (path / "tokenizer").is_dir() else SHIPPED_TOKENIZER
    require_t5(weights)
    file = read_tensors(weights)
    tensors, quantisation = prepare(dict(file.tensors), dict(file.metadata))
    config = T5EncoderConfig.from_tensors(tensors)
    check_complete(tensors, config, path.name)
    PromptTokenizer.from_folder(tokenizer).check_vocabulary(config.vocab_size)
    stored = tensors["encoder.final_layer_norm.weight"].dtype
    target = ClipTarget(
        tokenizer_class(tokenizer, config.d_model), encoder_class(config, stored, quantisation)
    )
    cpu = torch.device("cpu")
    options = {"load_device": cpu, "offload_device": cpu} if device == "cpu" else {}
    clip = make_clip(target, tensors, options)
    clip.patcher.cached_patcher_init = (reopen_patcher, (str(path), device))
    return clip


def reopen_patcher(path: str, device: str, disable_dynamic: bool = False) -> Any:
    """Load the encoder again for ComfyUI's device selectors (`cached_patcher_init`)."""
    return load_clip(Path(path), device).patcher


def make_clip(target: Any, tensors: dict[str, Tensor], options: dict[str, Any]) -> Any:
    """Call `comfy.sd.CLIP`, whose older versions take the weights in a second step."""
    given = {
        "embedding_directory": folder_paths.get_folder_paths("embeddings"),
        "tokenizer_data": {},
        "parameters": comfy.utils.calculate_parameters(tensors),
        "model_options": options,
    }
    if "state_dict" in inspect.signature(comfy.sd.CLIP.__init__).parameters:
        return comfy.sd.CLIP(target, state_dict=[tensors], **given)
    clip = comfy.sd.CLIP(target, **given)
    clip.load_sd(tensors)
    return clip


def prepare(tensors: dict[str, Tensor], metadata: dict[str, str]) -> tuple[dict[str, Tensor], Any]:
    """Return weights under T5's names as ComfyUI's operations read them, and their quantisation."""
    stored = encoder_tensors(tensors)
    check_is_t5(stored)
    if hasattr(comfy.utils, "convert_old_quants"):
        stored, _ = comfy.utils.convert_old_quants(stored, "", metadata=metadata)
    kept = {name: value for name, value in stored.items() if name not in UNUSED_NAMES}
    detect = getattr(comfy.utils, "detect_layer_quantization", None)
    return kept, detect(kept, "") if detect is not None else None


def target_from_checkpoint(tensors: Mapping[str, Tensor], prefix: str) -> Any:
    """Describe the T5 inside an all-in-one checkpoint, or return None if there is none."""
    start = f"{prefix}{NAME}.transformer."
    inside = {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}
    if not inside:
        return None
    inside = encoder_tensors(inside)
    config = T5EncoderConfig.from_tensors(inside)
    detect = getattr(comfy.utils, "detect_layer_quantization", None)
    quantisation = detect(inside, "") if detect is not None else None
    stored = inside["encoder.final_layer_norm.weight"].dtype
    return ClipTarget(
        tokenizer_class(SHIPPED_TOKENIZER, config.d_model),
        encoder_class(config, stored, quantisation),
    )
