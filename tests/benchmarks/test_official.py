"""The comparison with the release: what it says of a folder that is none, how it hears what the release found."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from benchmarks.official import BACKEND, IMAGE_HW, NUM_FRAMES, Agreement, Found, main, run_release
from scal3r_train.config import UserError

# A release that finds cameras on a line, scaled by 2, and a depth of 3; or none.
FAKE = """
import sys
from types import SimpleNamespace
import numpy as np

def save_results(*_):
    raise AssertionError

def main():
    flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    assert flags["--block_size"] == "6" and flags["--use_loop"] == "1", flags
    if flags["--checkpoint"].endswith("bad.pt"):
        raise RuntimeError("no such weights")
    c2w = np.tile(np.diag([2.0, 2, 2, 1]), (16, 1, 1))
    c2w[:, 0, 3] = np.arange(16)
    found = dict(c2w=c2w, ixt=np.tile(np.diag([5.0, 6, 1]), (16, 1, 1)), dpt_map=np.full((16, 70 * 98, 1), 3.0))
    save_results(SimpleNamespace(output=SimpleNamespace(**found)), None, recorder=None)
"""


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A checkout whose backend is FAKE."""
    backend = tmp_path / "release" / BACKEND
    backend.parent.mkdir(parents=True)
    for folder in (backend.parent, backend.parent.parent):
        (folder / "__init__.py").touch()
    backend.write_text(FAKE)
    return tmp_path / "release"


def test_a_folder_that_is_no_checkout_gets_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        assert main([str(folder)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        (line,) = said.err.splitlines()
        assert f"error: {folder} is no checkout of the release" in line


def test_a_kept_folder_is_not_overwritten(
    fake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(fake), "--keep", str(tmp_path)]) == 2
    assert "exists; name a new folder" in capsys.readouterr().err


def test_the_scale_of_a_chunk_goes_into_depth(fake: Path, tmp_path: Path) -> None:
    found = run_release(fake, sys.executable, tmp_path, "good.pt", loops=True)
    torch.testing.assert_close(found.world_from_cam[:, :, :3], torch.eye(3).double().expand(NUM_FRAMES, 3, 3))
    assert found.world_from_cam[:, 0, 3].tolist() == list(range(NUM_FRAMES))
    assert found.focal[3].tolist() == [5, 6]
    assert found.depth.shape == (NUM_FRAMES, *IMAGE_HW)
    torch.testing.assert_close(found.depth, torch.full_like(found.depth, 6))
    moved = Found(found.world_from_cam.clone(), found.focal * 1.01, found.depth * 1.02)
    moved.world_from_cam[4, 1, 3] += 0.3
    angle = torch.tensor(1e-5).double()
    moved.world_from_cam[5, :2, :2] = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(
        2, 2
    )
    apart = Agreement.of(found, moved)
    assert apart.centre == pytest.approx(0.3 / 15)
    assert apart.turn_deg == pytest.approx(5.729578e-4, rel=1e-5)
    assert (apart.focal, apart.depth_median) == pytest.approx((0.00995, 0.0198), rel=1e-3)


def test_a_release_that_fails_is_quoted(fake: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the release fails: RuntimeError: no such weights"):
        run_release(fake, sys.executable, tmp_path, "bad.pt", loops=True)
    with pytest.raises(UserError, match="--python /nowhere cannot be run"):
        run_release(fake, "/nowhere", tmp_path, "good.pt", loops=True)
