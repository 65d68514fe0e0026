"""The comparison with recorded tensors passes what it should and, above all, fails what it should."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.golden.reader import Golden


@pytest.fixture
def golden(tmp_path: Path) -> Golden:
    """Return an entry with a loose tolerance for `out.loose`, a tight one for `out.loose.tight`."""
    nan, inf = float("nan"), float("inf")
    tensors = {
        "w.block.weight": torch.eye(2),
        "out.plain": torch.tensor([[3.0, 4.0]]),
        "out.loose": torch.tensor([3.0, 4.0]),
        "out.loose.tight": torch.tensor([3.0, 4.0]),
        "out.holes": torch.tensor([1.0, nan, inf]),
    }
    save_file(tensors, tmp_path / "tiny.safetensors")
    tolerance = {
        "out.loose": {"rel_rms": 0.1, "max_abs_over_rms": 0.2},
        "out.loose.t": {"rel_rms": 1e-6, "max_abs_over_rms": 1e-6},
    }
    entry = {"config": {"kind": "amu"}, "files": [{"path": "tiny.safetensors"}], "tolerance": tolerance}
    (tmp_path / "manifest.json").write_text(json.dumps({"goldens": {"tiny": entry}}))
    return Golden.load(tmp_path, "tiny")


def test_reads_config_and_weights(golden: Golden) -> None:
    assert golden.config == {"kind": "amu"}
    assert list(golden.weights()) == ["block.weight"]
    assert list(golden.weights("block.")) == ["weight"]
    assert golden.keys("out.loose") == ["out.loose", "out.loose.tight"]


@pytest.mark.parametrize(
    ("key", "tolerance"),
    [("out.plain", (1e-5, 1e-4)), ("out.loose", (0.1, 0.2)), ("out.loose.tight", (1e-6, 1e-6))],
)
def test_longest_prefix_gives_the_tolerance(golden: Golden, key: str, tolerance: tuple[float, float]) -> None:
    assert golden.tolerance(key) == tolerance


@pytest.mark.parametrize(
    ("key", "value", "agrees"),
    [
        ("out.plain", [3.0, 4.0], True),  # an axis of length one more or less is no difference
        ("out.plain", [3.0, 4.001], False),
        ("out.plain", [3.0], False),
        ("out.plain", [3.0, float("nan")], False),
        ("out.loose", [3.0, 4.4], True),  # rms of the recorded (3, 4) is 3.54; rel_rms 0.08
        ("out.loose", [3.0, 4.8], False),  # max_abs_over_rms 0.23
        ("out.loose.tight", [3.0, 4.4], False),
        ("out.holes", [1.0, float("nan"), float("inf")], True),
        ("out.holes", [1.0, float("nan"), float("-inf")], False),
        ("out.holes", [1.0, float("inf"), float("nan")], False),
        ("out.holes", [1.0, 0.0, float("inf")], False),
    ],
)
def test_compare(golden: Golden, key: str, value: list[float], agrees: bool) -> None:
    ok, message = golden.compare(key, torch.tensor(value))
    assert ok is agrees, message
    assert key in message
