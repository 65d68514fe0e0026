"""`scal3r data summary`: sizes of data sets, shares of a mixture, and what it says of indexes that are not there."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from scal3r_data_tools import summary
from scal3r_data_tools.summary import dataset_facts, source_shares
from scal3r_train.config import UserError
from scal3r_train.data.index.index import load_index, write_index
from scal3r_train.data.sampling.sources import open_sources
from scal3r_train.data.sequence import SequenceRecord
from tests.training import tiny


def straight(name: str, num: int, **fields: object) -> SequenceRecord:
    """A metric drive along z, 2 m and a tenth of a second a frame."""
    poses = np.tile(np.eye(4)[:3], (num, 1, 1))
    poses[:, 2, 3] = -2.0 * np.arange(num)
    known = {
        "dataset": "drives",
        "timestamp": np.arange(num) / 10,
        "cam_from_world": poses,
        "is_metric": True,
        "licence": "MIT",
    }
    return SequenceRecord(
        sequence_id=name,
        root=Path("/nowhere"),
        image=tuple(f"{frame}.png" for frame in range(num)),
        image_size=np.full((num, 2), 8),
        camera_model="pinhole",
        intrinsics=np.ones((num, 4)),
        **known | fields,
    )


@pytest.fixture
def drives(tmp_path: Path) -> Path:
    depth = ("0.d", "", "2.d", "")
    records = [
        straight("a", 501),
        straight("b", 4, depth=depth, depth_codec="pfm", is_synthetic=True, num_missing=3, licence=""),
        straight("c", 11, is_metric=False, split="test"),
        straight("photos", 5, dataset="photos", is_ordered=False, cam_from_world=None),
        straight("count", 5, dataset="counted", timestamp=np.arange(5.0)),
    ]
    write_index(tmp_path / "drives.parquet", records)
    return tmp_path / "drives.parquet"


def test_facts_of_data_sets(drives: Path) -> None:
    counted, found, photos = dataset_facts(load_index(drives))
    assert (found.name, found.licences) == ("drives", ("", "MIT"))
    assert (found.num_sequences, found.num_frames, found.num_missing) == (3, 516, 3)
    assert (found.num_denied, found.num_synthetic, found.num_posed, found.num_with_depth) == (1, 1, 3, 2)
    assert found.kilometres == pytest.approx(2 * (500 + 3) / 1000), "the one without metres does not count"
    assert found.hours == pytest.approx((50.0 + 0.3 + 1.0) / 3600)
    assert (photos.hours, photos.kilometres, photos.num_posed) == (None, None, 0)
    assert counted.hours is None, "frames were counted, no time was measured"
    assert counted.kilometres == pytest.approx(0.008)


def cells(out: str, name: str) -> list[str]:
    """The words of the table's row that begins with a name."""
    return next(line for line in out.splitlines() if line.strip().startswith(name)).split()


def test_a_table_of_indexes_names_the_missing_ones(
    drives: Path, towns: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (drives.parent / "bad.parquet").write_text("text")
    names = [
        str(drives),
        str(towns),
        str(drives.parent / "absent.parquet"),
        str(drives.parent / "bad.parquet"),
    ]
    assert summary.main(names) == 0
    out = capsys.readouterr().out
    assert cells(out, "drives")[:6] == ["drives", "3", "516", "3", "0.0142", "1.01"]
    assert "both" in cells(out, "drives") and "MIT" in out and "not given" in out
    assert cells(out, "photos")[4:9] == ["-", "-", "real", "no", "no"]
    assert cells(out, "all")[:3] == ["all", "9", "606"]
    assert "absent.parquet: does not exist" in out
    assert "bad.parquet is not a Parquet file" in out
    assert "kept out: sequences that the deny-list" in out


def test_only_missing_indexes_are_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="none of these indexes can be read"):
        summary.main([str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")])
    out = capsys.readouterr().out
    assert "a.parquet: does not exist" in out and "b.parquet: does not exist" in out


def test_wrong_arguments_say_so(drives: Path, towns: Path, tmp_path: Path) -> None:
    recipe = written(tiny.recipe(towns, tmp_path / "run"), tmp_path)
    for arguments, message in (
        ([str(drives), "seed=1"], "unknown key 'seed'"),
        ([recipe, str(drives)], "cannot stand beside a recipe"),
        ([recipe, "world_size=0"], "world_size"),
        ([recipe, "sed=1"], "did you mean 'seed'"),
    ):
        with pytest.raises(UserError, match=message):
            summary.main(arguments)


def written(recipe: tiny.TrainingRecipe, folder: Path) -> str:
    path = folder / "recipe.json"
    path.write_text(recipe.model_dump_json())
    return str(path)


def test_shares_of_a_known_mixture(towns: Path, tmp_path: Path) -> None:
    """Every step shows four chunks of four frames of one sequence, 5 steps are the whole run of 80 frames."""
    recipe = tiny.recipe(towns, tmp_path / "run")
    (share,) = source_shares(recipe, open_sources(recipe.data)[1], 1, 100)
    assert (share.share_of_sequences, share.share_of_frames) == (1.0, 1.0)
    assert share.frames_per_step == 16.0
    assert share.times_seen == pytest.approx(5 * 16 / 80)
    recipe = tiny.recipe(towns, tmp_path / "run", {"optim.accumulation_steps": 3})
    (share,) = source_shares(recipe, open_sources(recipe.data)[1], 2, 4)
    assert share.frames_per_step == pytest.approx(3 * 2 * 16)
    assert share.times_seen == pytest.approx(5 * 3 * 2 * 16 / 80)


def test_weights_are_shares_of_sequences_and_short_sequences_show_fewer_frames(
    towns: Path, tmp_path: Path
) -> None:
    """The second source has 7 frames a sequence: two chunks of four that share one, of the four of a window."""
    whole = load_index(towns)[0]
    num = 7
    cut = {
        name: value[:num]
        for name, value in vars(whole).items()
        if isinstance(value, tuple | np.ndarray) and len(value) == whole.num_frames
    }
    write_index(tmp_path / "short.parquet", [dataclasses.replace(whole, **cut)])
    sources = [
        {"index": str(towns), "weight": 3.0},
        {"index": str(tmp_path / "short.parquet"), "weight": 1.0},
    ]
    recipe = tiny.recipe(towns, tmp_path / "run", {"data.sources": sources, "optim.num_steps": 4000})
    long, short = source_shares(recipe, open_sources(recipe.data)[1], 1, 2000)
    assert (long.share_of_sequences, short.share_of_sequences) == (0.75, 0.25)
    expected = 0.75 * 16 / (0.75 * 16 + 0.25 * 8)
    assert long.share_of_frames == pytest.approx(expected, abs=0.02)
    assert long.share_of_frames + short.share_of_frames == pytest.approx(1)


def test_a_recipe_shows_data_sets_and_shares(
    towns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = [{"index": str(towns)}, {"index": "absent.parquet"}]
    recipe = tiny.recipe(towns, tmp_path / "run", {"data.sources": sources})
    assert summary.main([written(recipe, tmp_path), "world_size=2", "steps=3", "optim.num_steps=7"]) == 0
    out = capsys.readouterr().out
    assert "2 ranks, 7 steps, 32 frames a step" in out
    assert "absent.parquet: does not exist" in out
    assert "shares are those of the 1 of 2 indexes that can be read" in out
    assert "100.0 %" in out
    assert cells(out, "towns")[1:3] == ["4", "80"]


def test_a_mixture_that_cannot_be_planned_is_still_described(
    drives: Path, towns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny.recipe(towns, tmp_path / "run", {"data.sources": [{"index": str(drives)}]})
    assert summary.main([written(recipe, tmp_path)]) == 0
    out = capsys.readouterr().out
    assert cells(out, "drives")[1] == "3"
    assert "the mixture cannot be planned" in out and "has no poses" in out
