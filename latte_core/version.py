"""The version of the pack, on the lowest floor because files that are written name it."""

__version__ = "0.3.0"
