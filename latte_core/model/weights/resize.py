"""Give a Latte position tables for other lengths and sizes (docs/model.md 2.3).

LatteT2V needs nothing of the kind: it keeps no tables.
"""

from __future__ import annotations

from dataclasses import replace

from ..latte.layers import fixed_table
from ..latte.transformer import Latte
from ..positional import integer_table, temporal_table


def resize(model: Latte, *, num_frames: int | None = None, input_size: int | None = None) -> None:
    """Make a Latte one of another length or picture size; all trained weights stay.

    A Latte runs at any length and size as it is. This changes what it is for: the tables that are
    saved with it, and the defaults that its config states.

    Args:
        model: changed in place.
        num_frames: frames of a clip; None leaves the length as it is.
        input_size: latent side of a picture; None leaves the size as it is.

    Raises:
        InvalidInputError: for a number that does not fit the model's patches or tubelets.
    """
    old = model.config
    config = replace(
        old,
        num_frames=old.num_frames if num_frames is None else num_frames,
        input_size=old.input_size if input_size is None else input_size,
    )
    width, side, place = config.hidden_size, config.table_side, model.pos_embed.device
    if side != old.table_side:
        model.pos_embed = fixed_table(side**2, width, place)
        model.pos_embed.copy_(integer_table(width, side, side, place))
    count = config.num_frames // config.tubelet_size
    if config.has_temporal_table and count != model.temp_embed.shape[1]:
        model.temp_embed = fixed_table(count, width, place)
        model.temp_embed.copy_(temporal_table(width, count, place))
    model.config = config
