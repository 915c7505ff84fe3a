"""The reference's masked 120-row encoding on any CLIP that holds ComfyUI's T5."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any

import comfy.model_management
import comfy.text_encoders.t5
import torch

from ....latte_core.errors import IncompatibleInputsError, NonFiniteError
from ....latte_core.text.pair import Encoder, encode_pair
from ....latte_core.text.t5 import TextEmbeddings
from ....latte_core.text.tokenizer import PromptTokenizer
from ....latte_core.types import TEXT_TOKENS
from ..base.progress import check_cancelled
from .cache import with_memory
from .clip import NAME

logger = logging.getLogger("latte")


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
    t5: Any = comfy.text_encoders.t5.T5
    advice = 'Connect "Latte Text Encoder Loader" (or CLIPLoader, type pixart, with a t5xxl file).'
    for part in parts:
        module: Any = getattr(part, "transformer", None)
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
    """Encode both prompts as CONDITIONING, with the hooks the CLIP carries, and a report.

    Prompts that the CLIP has encoded before are not encoded again.
    """
    recorder = Recorder(with_memory(encoder.clip, encoder))
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
    device = comfy.model_management.intermediate_device()
    made = [
        [[text.to(device), encoder.clip.add_hooks_to_dict({})]] for text in (positive, negative)
    ]
    return made[0], made[1], " ".join(report)


class Recorder:
    """Passes texts on to an encoder and keeps what it says about prompts that were cut."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.notices: list[str] = []

    def encode(self, texts: Sequence[str]) -> TextEmbeddings:
        """Encode and remember the notices."""
        features = self.encoder.encode(texts)
        self.notices.extend(features.notices)
        return features
