"""A run whose indexes are not all there: refused before it starts, or trained on the others, and resumed only alike."""

from pathlib import Path

import pytest

from scal3r_train.config import UserError
from tests.training import tiny

STEPS = {"optim.num_steps": 2, "checkpoint.every": 1, "validation.every": 0}


def test_a_run_with_a_missing_index_does_not_start(towns: Path, tmp_path: Path) -> None:
    sources = [{"index": str(tmp_path / name)} for name in ("a.parquet", "b.parquet")]
    with pytest.raises(UserError, match="2 indexes are missing"):
        tiny.train(tiny.recipe(towns, tmp_path / "run", {"data.sources": sources}))
    assert not (tmp_path / "run").exists()


def test_skipping_is_said_once_and_equals_a_run_without_that_source(
    towns: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    later = tmp_path / "later.parquet"
    sources = [{"index": str(towns)}, {"index": str(later), "weight": 3.0}]
    skipping = STEPS | {"data.sources": sources, "data.missing": "skip"}
    tiny.train(tiny.recipe(towns, tmp_path / "skipping", skipping))
    assert capfd.readouterr().err.count("data.missing: skipped") == 1
    tiny.train(tiny.recipe(towns, tmp_path / "without", STEPS))
    assert tiny.metrics(tmp_path / "skipping") == tiny.metrics(tmp_path / "without")
    tiny.write_uneven_towns(towns, later)  # it arrives between two starts
    recipe = (tmp_path / "skipping" / "recipe.yaml").read_text()
    longer = skipping | {"optim.num_steps": 3}
    with pytest.raises(UserError, match=r"mixture is not the one .*later.parquet is new"):
        tiny.train(tiny.recipe(towns, tmp_path / "skipping", longer))
    assert (tmp_path / "skipping" / "recipe.yaml").read_text() == recipe
