"""The errors a person can meet, as one tree.

LatteError
  InvalidInputError (ValueError)        a number, size, seed, name or prompt cannot be used
    IncompatibleInputsError             two things wired together do not belong together
    UnreadableMediaError                a picture or video cannot be decoded
  CheckpointError (ValueError)
    UnsafeCheckpointError               the file asks Python to import something
    CorruptCheckpointError              truncated, not a checkpoint, inconsistent, damaged
    UnknownArchitectureError            well-formed, but not a Latte part we know
    WeightMismatchError                 keys or shapes differ from the detected model
  NonFiniteError (ArithmeticError)      NaN or Inf appeared while sampling or decoding
  MissingDependencyError (ImportError)  an optional package is not installed or does not import
  VideoWriteError (OSError)             a video or picture could not be written whole

A message says what could not be done, what was found, what was expected and what to do next.
"""

from __future__ import annotations


class LatteError(Exception):
    """Base of every error this package raises on purpose."""


class InvalidInputError(LatteError, ValueError):
    """A number, size, seed, name or prompt cannot be used."""


class IncompatibleInputsError(InvalidInputError):
    """Two inputs that were wired together do not belong together."""


class UnreadableMediaError(InvalidInputError):
    """A picture or video cannot be decoded: of many, it alone is left out."""


class CheckpointError(LatteError, ValueError):
    """A weights file cannot be used."""


class UnsafeCheckpointError(CheckpointError):
    """A pickle file asks Python to import something that is not a tensor."""


class CorruptCheckpointError(CheckpointError):
    """A file is truncated, damaged, inconsistent, or not a weights file at all."""


class UnknownArchitectureError(CheckpointError):
    """A file is well-formed but is not a Latte part this loader knows."""


class WeightMismatchError(CheckpointError):
    """Names or shapes in a file differ from those of the detected model."""


class NonFiniteError(LatteError, ArithmeticError):
    """NaN or Inf appeared in latents or frames."""


class MissingDependencyError(LatteError, ImportError):
    """An optional package is missing; the message carries the install line."""


class VideoWriteError(LatteError, OSError):
    """A video or picture could not be written whole."""
