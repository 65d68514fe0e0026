"""Lenses, and what resizing and cropping do to a camera."""
