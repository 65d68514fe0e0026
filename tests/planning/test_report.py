"""`scal3r plan`: what it prints, and that it plans a large world without any data."""

from pathlib import Path

import pytest

from scal3r_train.config import UserError
from scal3r_train.data.sampling.curriculum import Resolution
from scal3r_train.data.sampling.plan import StepShape, plan_step
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.planning import report
from scal3r_train.planning.step_size import StepSize
from tests.training import tiny


def plan(path: Path, capsys: pytest.CaptureFixture[str], *overrides: str, world_size: int, steps: int) -> str:
    assert report.main(str(path), overrides, world_size, steps) == 0
    return capsys.readouterr().out


def test_the_demo_on_32_ranks(
    project_root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project_root)
    index = "data.sources=[{index: absent.parquet}]"
    out = plan(project_root / "recipes/demo.yaml", capsys, index, world_size=32, steps=1000)
    assert "1000 steps on 32 ranks" in out
    assert "index does not exist yet" in out
    assert "effective lengths" in out and "####" in out
    assert "every rank does the same in a step" in out
    assert "predicted, not measured" in out
    for word in ("ddp *", "fsdp2", "none *", "segments", "memory sync: 2 all-reduces", "80 GB: as it is"):
        assert word in out


@pytest.fixture
def _without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes most of the time."""
    monkeypatch.setattr("scal3r_train.planning.memory_report.print_memory", lambda *_: None)


@pytest.mark.usefixtures("_without_memory")
def test_numbers_of_a_known_plan(towns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One chunk of 4 frames of 2 x 3 patches and 5 special tokens on each rank; groups of two ranks."""
    changes = {"curriculum.group_size": {"2": 1.0}, "curriculum.chunks_per_rank": {"1": 1.0}}
    path = tmp_path / "recipe.json"
    path.write_text(tiny.recipe(towns, tmp_path / "run", changes).model_dump_json())
    out = plan(path, capsys, world_size=4, steps=10)
    assert f"{4 * (6 + 5)}-{4 * (6 + 5)} tokens" in out
    assert "100.0 %" in out  # all ranks are in groups of two
    row = next(line for line in out.splitlines() if "####" in line)
    assert [cell.strip() for cell in row.split("\u2502")][1:4] == ["2", "7", "20"]
    assert "padding 0.00 %" in out
    assert "does not exist" not in out


@pytest.mark.usefixtures("_without_memory")
def test_padding_of_short_sequences_is_told(
    towns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uneven = tiny.write_uneven_towns(towns, tmp_path / "index.parquet")
    path = tmp_path / "recipe.json"
    path.write_text(tiny.recipe(uneven, tmp_path / "run").model_dump_json())
    out = plan(path, capsys, world_size=1, steps=50)
    share = float(out.split("padding ")[1].split(" %")[0])
    assert share == pytest.approx(100 * (1 - (1 + 2 + 3 + 2) / 16), abs=12)


def test_work_of_a_rank_counts_all_tokens() -> None:
    recipe = tiny.recipe(Path("x"), Path("y"), {"curriculum.sequences_per_group": 3})
    sources, is_known = report.plannable_sources(recipe.data)
    assert not is_known
    step = plan_step(recipe.curriculum, sources, 0, 0, 4)
    assert step.shape == StepShape(4, 1, 4, Resolution(height=28, width=42))
    assert report.rank_work(step, 14, 5) == 3 * 4 * 4 * (6 + 5)
    network = Scal3RConfig(**tiny.NETWORK)
    assert report.largest_step([step], network) == StepSize(3, 4, 4, 28, 42)


def test_largest_step_is_the_one_with_most_tokens() -> None:
    changes = {
        "curriculum.chunk_size": {"4": 1.0, "6": 1.0},
        "curriculum.resolution": [{"height": 28, "width": 28}, {"height": 56, "width": 56}],
    }
    recipe = tiny.recipe(Path("x"), Path("y"), changes)
    sources, _ = report.plannable_sources(recipe.data)
    plans = [plan_step(recipe.curriculum, sources, 0, step, 2) for step in range(40)]
    size = report.largest_step(plans, Scal3RConfig(**tiny.NETWORK))
    assert (size.num_frames, size.height, size.width) == (6, 56, 56)


def test_a_world_without_ranks_is_refused(project_root: Path) -> None:
    with pytest.raises(UserError, match="both must be at least 1"):
        report.main(str(project_root / "recipes/demo.yaml"), [], 0, 10)
