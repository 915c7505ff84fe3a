"""T5 as a ComfyUI CLIP, and the reference's masked 120-row encoding on any CLIP that holds a T5."""

from __future__ import annotations

import contextlib
import inspect
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.text_encoders.t5
import comfy.utils
import folder_paths
import torch
from comfy import sd1_clip
from comfy.supported_models_base import ClipTarget
from torch import Tensor

from ...latte_core.checkpoint.families import Family
from ...latte_core.checkpoint.identify import require_family
from ...latte_core.checkpoint.reader import read_tensors
from ...latte_core.errors import IncompatibleInputsError, NonFiniteError, WeightMismatchError
from ...latte_core.text.config import T5EncoderConfig, check_is_t5
from ...latte_core.text.layouts import encoder_tensors
from ...latte_core.text.pair import encode_pair
from ...latte_core.text.t5 import TextEmbeddings
from ...latte_core.text.tokenizer import END_ID, PAD_ID, PromptTokenizer
from ...latte_core.types import TEXT_TOKENS
from .progress import check_cancelled

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
            from transformers import T5TokenizerFast

            super().__init__(
                str(folder),
                embedding_directory=embedding_directory,
                pad_with_end=False,
                embedding_size=width,
                embedding_key=NAME,
                tokenizer_class=T5TokenizerFast,
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
    require_family(weights, Family.T5_ENCODER, "Latte's text encoder")
    file = read_tensors(weights)
    tensors, quantisation = prepare(dict(file.tensors), dict(file.metadata))
    config = T5EncoderConfig.from_tensors(tensors)
    check_whole(tensors, config, path.name)
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


def check_whole(tensors: Mapping[str, Tensor], config: T5EncoderConfig, name: str) -> None:
    """Refuse an encoder with missing weights, which ComfyUI would only mention in its log.

    Raises:
        WeightMismatchError: naming the first one that is missing.
    """
    layers = ("SelfAttention.q", "SelfAttention.k", "SelfAttention.v", "SelfAttention.o")
    forward = ("DenseReluDense.wi_0", "DenseReluDense.wi_1", "DenseReluDense.wo", "layer_norm")
    expected = ["shared.weight", "encoder.final_layer_norm.weight"]
    for index in range(config.num_layers):
        block = f"encoder.block.{index}.layer"
        expected += [f"{block}.0.{layer}.weight" for layer in (*layers, "layer_norm")]
        expected += [f"{block}.1.{layer}.weight" for layer in forward]
    missing = [key for key in expected if key not in tensors]
    if missing:
        raise WeightMismatchError(
            f"{name} lacks {len(missing)} of {len(expected)} text encoder weights, the first is "
            f"{missing[0]}. It is not whole; download it again."
        )


def target_from_checkpoint(tensors: Mapping[str, Tensor], prefix: str) -> Any:
    """Describe the T5 inside an all-in-one checkpoint, or return None if there is none."""
    start = f"{prefix}{NAME}.transformer."
    inside = {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}
    if not inside:
        return None
    config = T5EncoderConfig.from_tensors(inside)
    detect = getattr(comfy.utils, "detect_layer_quantization", None)
    quantisation = detect(inside, "") if detect is not None else None
    stored = inside["encoder.final_layer_norm.weight"].dtype
    return ClipTarget(
        tokenizer_class(SHIPPED_TOKENIZER, config.d_model),
        encoder_class(config, stored, quantisation),
    )


class ClipTextEncoder:
    """The encoder that `latte_core.text.pair` asks for, on top of a CLIP of any T5 type.

    It calls ComfyUI's T5 with 120 padded rows and their mask, which no tokenizer option of a stock
    CLIP gives.

    Args:
        clip: from "Latte Text Encoder Loader", or from CLIPLoader with a T5.

    Raises:
        IncompatibleInputsError: if the CLIP holds no T5, saying what it holds.
    """

    def __init__(self, clip: Any) -> None:
        self.clip = clip
        self.model = find_t5(clip)
        self.tokenizer = PromptTokenizer(find_tokenizer(clip), "of the CLIP input")
        self.tokenizer.check_vocabulary(self.model.transformer.shared.num_embeddings)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> TextEmbeddings:
        """Return (B, 120, C) features and mask of prepared prompts.

        Raises:
            NonFiniteError: if a feature is NaN or infinite.
        """
        check_cancelled()
        tokens = self.tokenizer.encode(texts, TEXT_TOKENS)
        self.clip.load_model()
        device = self.clip.patcher.load_device
        context = getattr(comfy.model_management, "cuda_device_context", contextlib.nullcontext)
        with context(device):
            output = self.model.transformer(
                tokens.ids.to(device), tokens.mask.long().to(device), dtype=torch.float32
            )[0]
        embeds = output.float().to(comfy.model_management.intermediate_device())
        if not bool(torch.isfinite(embeds).all()):
            raise NonFiniteError(
                "The text encoder gave NaN or infinite features. Use a text encoder file in fp16, "
                "bf16 or scaled fp8, or set the loader's device to cpu."
            )
        mask = tokens.mask.to(embeds.device)
        return TextEmbeddings(embeds=embeds, mask=mask, notices=tokens.notices)


def find_t5(clip: Any) -> Any:
    """Return the part of a CLIP that holds ComfyUI's T5.

    Raises:
        IncompatibleInputsError: if there is none, or it is umT5.
    """
    holder = getattr(clip, "cond_stage_model", None)
    parts = [holder, *(getattr(holder, name, None) for name in (NAME, "umt5xxl", "t5xl", "t5base"))]
    t5 = comfy.text_encoders.t5.T5
    advice = 'Connect "Latte Text Encoder Loader" (or CLIPLoader, type pixart, with a t5xxl file).'
    for part in parts:
        module = getattr(part, "transformer", None)
        if not isinstance(module, t5):
            continue
        if getattr(
            module.encoder.block[-1].layer[0].SelfAttention, "relative_attention_bias", None
        ):
            if len(module.encoder.block) > 1:
                raise IncompatibleInputsError(
                    'The "clip" input of Latte Text Encode got umT5, the encoder of Wan. It has '
                    f"the same width as Latte's T5 but another vocabulary. {advice}"
                )
        return part
    raise IncompatibleInputsError(
        f'The "clip" input of Latte Text Encode got {type(holder or clip).__name__}, which holds '
        f"no T5 encoder. {advice}"
    )


def find_tokenizer(clip: Any) -> Any:
    """Return the transformers tokenizer inside a CLIP's tokenizer.

    Raises:
        IncompatibleInputsError: if there is none.
    """
    holder = getattr(clip, "tokenizer", None)
    for part in (getattr(holder, f"clip_{NAME}", None), getattr(holder, NAME, None), holder):
        backend = getattr(part, "tokenizer", None)
        if hasattr(backend, "get_vocab"):
            return backend
    raise IncompatibleInputsError(
        f'The "clip" input of Latte Text Encode has the tokenizer {type(holder).__name__}, which '
        'is not a T5 tokenizer. Connect "Latte Text Encoder Loader".'
    )


def encode_conditioning(
    encoder: ClipTextEncoder,
    prompt: str,
    negative_prompt: str,
    clean_caption: bool,
    mask_feature: bool,
) -> tuple[list[list[Any]], list[list[Any]], str]:
    """Encode both prompts as CONDITIONING, with the hooks the CLIP carries, and a report."""
    recorder = Recorder(encoder)
    positive, negative = encode_pair(
        recorder,
        prompt,
        negative_prompt,
        clean_caption=clean_caption,
        mask_feature=mask_feature,
    )
    report = [f"{positive.shape[1]} tokens are used.", *recorder.notices]
    for notice in recorder.notices:
        logger.warning("Latte: %s", notice)
    options = [encoder.clip.add_hooks_to_dict({}) for _ in range(2)]
    return [[positive, options[0]]], [[negative, options[1]]], " ".join(report)


class Recorder:
    """Passes texts on to an encoder and keeps what it says about prompts that were cut."""

    def __init__(self, encoder: ClipTextEncoder) -> None:
        self.encoder = encoder
        self.notices: list[str] = []

    def encode(self, texts: Sequence[str]) -> TextEmbeddings:
        """Encode and remember the notices."""
        features = self.encoder.encode(texts)
        self.notices.extend(features.notices)
        return features
