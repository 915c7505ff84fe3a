"""Whether a file's header is that of a whole T5 v1.1 encoder."""

from __future__ import annotations

from ...text.config import T5EncoderConfig, check_complete
from ...text.layouts import encoder_tensors
from ..reading.records import FileHeader


def judge_t5(header: FileHeader) -> T5EncoderConfig:
    """Return the shape of the encoder in a file, or in a folder of shards.

    Raises:
        UnknownArchitectureError: for T5 1.0 and everything else that is not T5 v1.1.
        WeightMismatchError: if it is not whole.
        InvalidInputError: if its sizes are out of range.
    """
    inside = encoder_tensors(header.tensors)
    config = T5EncoderConfig.from_tensors(inside)
    check_complete(inside, config, header.name)
    return config
