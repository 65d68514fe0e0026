"""The peak of one sequence is not that of those before it."""

import sys

import numpy as np
import pytest

from scal3r_eval.predict_sequence import forget_peak_memory
from scal3r_train.inference.rank_work import peak_memory

MIB = 1 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_peak_is_forgotten_and_a_new_one_seen() -> None:
    block = np.ones(400 * MIB, np.uint8)
    high = peak_memory()["host"]
    del block
    forget_peak_memory()
    low = peak_memory()["host"]
    assert low < high - 300 * MIB
    block = np.ones(200 * MIB, np.uint8)
    assert peak_memory()["host"] > low + 150 * MIB
    del block
