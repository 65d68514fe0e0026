"""Training, evaluation and reconstruction for Scal3R, a feed-forward 3D model with a context memory."""

__version__ = "0.1.0"
