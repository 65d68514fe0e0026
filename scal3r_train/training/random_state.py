"""The random state of one process as plain JSON: Python's, NumPy's, torch's on the CPU and on its CUDA device."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Return the state of every generator that a training run may draw from."""
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=True)  # noqa: NPY002  the global one
    _, keys, position, has_gauss, cached = numpy_state
    state = {
        "python": [version, list(words), gauss],
        "numpy": [keys.tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().numpy().tobytes().hex()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Take over what `random_state` returned; a CUDA state is used where there is a CUDA device."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    words_of_numpy = np.array(keys, dtype=np.uint32)
    np.random.set_state(("MT19937", words_of_numpy, position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(_tensor(state["torch"]))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(_tensor(state["cuda"]))


def _tensor(text: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
