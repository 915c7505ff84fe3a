"""Calibration of the step cache on runs of a pipeline."""
