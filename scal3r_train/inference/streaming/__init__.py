"""Reconstruction of frames that arrive over time."""
