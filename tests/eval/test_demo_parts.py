"""Parts of `make demo` that need no training: scoring, results file, plots, failing steps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from scal3r_eval import demo
from scal3r_eval.demo import plot_trajectories
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.data.synthetic.settings import TownSettings
from scal3r_train.data.synthetic.town import TownDrive
from scal3r_train.geometry.camera import invert_extrinsics

SETTINGS = TownSettings(num_frames=30, height=28, width=42)


def record(number: int) -> SequenceRecord:
    drive = TownDrive(SETTINGS, number)
    num = SETTINGS.num_frames
    return SequenceRecord(
        dataset="towns",
        sequence_id=f"town{number}",
        root=Path("/"),
        image=("x.png",) * num,
        image_size=np.tile([28, 42], (num, 1)),
        timestamp=np.arange(num) / 10,
        cam_from_world=drive.extrinsics,
    )


@pytest.fixture(scope="module")
def records() -> list[SequenceRecord]:
    return [record(number) for number in range(5)]


def truth(record: SequenceRecord) -> torch.Tensor:
    assert record.cam_from_world is not None
    return invert_extrinsics(torch.from_numpy(record.cam_from_world))


def similar(world_from_cam: torch.Tensor) -> torch.Tensor:
    """The same path in another world, three times as large."""
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    rotation = turn @ world_from_cam[:, :, :3]
    centres = 3 * world_from_cam[:, :, 3] @ turn.T + 7
    return torch.cat([rotation, centres[..., None]], dim=-1)


def test_a_perfect_reconstruction_scores_zero_and_beats_all_baselines(records: list[SequenceRecord]) -> None:
    results, scores = demo.score_all(records, [similar(truth(record)) for record in records])
    assert results["num_sequences"] == 5 == len(scores)
    assert set(results) == {"num_sequences", "ours", "static", "straight_line", "constant_turn"}
    percents = {name: entry["ate_percent"] for name, entry in results.items() if isinstance(entry, dict)}
    assert percents["ours"] == pytest.approx(0, abs=1e-9)
    assert 0.1 < percents["constant_turn"] and 0.1 < percents["straight_line"] < percents["static"]


def test_percent_is_the_mean_over_sequences(records: list[SequenceRecord]) -> None:
    estimates = [truth(record) for record in records]
    estimates[0] = estimates[0] + 0.3 * torch.randn(30, 3, 4, dtype=torch.float64)
    results, scores = demo.score_all(records, estimates)
    assert results["ours"] == {"ate_percent": pytest.approx(scores[0] / 5, rel=1e-6)}
    assert scores[0] > 0.1


def test_results_are_shown_and_can_be_written(records: list[SequenceRecord]) -> None:
    results, _ = demo.score_all(records, [truth(record) for record in records])
    results["seconds"] = 1.0
    console = Console(record=True, width=120, file=open("/dev/null", "w"))
    demo._print_results(console, results)
    shown = console.export_text()
    assert "5 held-out videos" in shown
    for name in ("ours", "static", "straight line", "constant turn"):
        assert name in shown
    assert json.loads(json.dumps(results))["ours"]["ate_percent"] == pytest.approx(0, abs=1e-9)


def test_plots_show_every_sequence(records: list[SequenceRecord], tmp_path: Path) -> None:
    truths = [truth(record) for record in records]
    plot_trajectories(tmp_path / "plot.png", truths, [similar(path).float() for path in truths], [0.0] * 5)
    with Image.open(tmp_path / "plot.png") as image:
        assert image.width > 800 and image.height > 300  # two rows of four
        colours = np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)
    assert [255, 127, 14] in colours.tolist(), "our path is drawn"
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]
