"""What every part of the glue stands on: sockets, conditionings, layouts of latents, paths."""
