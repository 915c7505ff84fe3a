"""From a prompt or a class to a video: the parts of a model brought together."""
