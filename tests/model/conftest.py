"""The checkpoint of a tiny random model, the one that tests of reconstruction load too."""

from tests.inference.conftest import checkpoint, tiny_model

__all__ = ["checkpoint", "tiny_model"]
