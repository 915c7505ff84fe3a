"""The command `sample`."""
