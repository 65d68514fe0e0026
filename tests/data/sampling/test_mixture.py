"""Missing indexes are reported together or skipped together, and a resumed run trains on what it began with."""

import json
from pathlib import Path
from typing import Any

import pytest

from scal3r_train.config import UserError
from scal3r_train.data.index.index import load_index, write_index
from scal3r_train.data.sampling import sources as mixture
from scal3r_train.data.sampling.sources import (
    DataSettings,
    available_data,
    check_mixture,
    open_sources,
    skipped_message,
)


def data(*sources: tuple[object, float], **settings: Any) -> DataSettings:
    return DataSettings(
        sources=[{"index": str(path), "weight": weight} for path, weight in sources], **settings
    )


def test_all_missing_indexes_are_told_at_once_with_the_command_of_each(towns: Path, tmp_path: Path) -> None:
    """Those of validation too, each once."""
    settings = data(
        (towns, 1.0), (tmp_path / "co3d_v2.parquet", 2.0), ("runs/debug/towns/index.parquet", 1.0)
    )
    validation = data((tmp_path / "kitti.parquet", 1.0), (tmp_path / "co3d_v2.parquet", 1.0)).sources
    with pytest.raises(UserError) as caught:
        available_data(settings, validation)
    assert str(caught.value) == (
        f"3 indexes are missing; write `scal3r data index co3d_v2 SRC {tmp_path}/co3d_v2.parquet`; "
        f"`scal3r data synth runs/debug/towns`; `scal3r data index kitti SRC {tmp_path}/kitti.parquet`; "
        "or set data.missing=skip"
    )


def test_nothing_missing_changes_nothing(towns: Path) -> None:
    settings = data((towns, 1.0))
    assert available_data(settings, settings.sources) == settings
    assert skipped_message(settings, settings) is None


def test_skipping_trains_on_the_others_and_says_their_shares(towns: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    write_index(other, [load_index(towns)[0]])
    absent = tmp_path / "absent.parquet"
    settings = data((towns, 1.0), (absent, 6.0), (other, 3.0), missing="skip")
    available = available_data(settings)
    assert [source.index for source in available.sources] == [str(towns), str(other)]
    assert [source.weight for source in open_sources(available)[1]] == [1.0, 3.0]
    assert skipped_message(settings, available) == (
        f"data.missing: skipped {absent}; training on {towns} 25.0 %, {other} 75.0 %"
    )


def test_an_index_that_another_process_lacks_is_missing_here(
    towns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.parquet"
    write_index(other, [load_index(towns)[0]])
    monkeypatch.setattr(mixture, "gather_to_all", lambda mine: [mine, {str(other)}])
    settings = data((towns, 1.0), (other, 3.0))
    with pytest.raises(UserError, match=r"1 index is missing; write `scal3r data index other SRC"):
        available_data(settings)
    skipping = settings.model_copy(update={"missing": "skip"})
    assert [source.index for source in available_data(skipping).sources] == [str(towns)]


def test_skipping_everything_or_validation_is_refused(towns: Path, tmp_path: Path) -> None:
    absent = data((tmp_path / "absent.parquet", 1.0), missing="skip")
    with pytest.raises(UserError, match="1 index is missing"):
        available_data(absent)
    with pytest.raises(
        UserError, match=r"absent.parquet`; these are of validation.sources and never skipped"
    ):
        available_data(data((towns, 1.0), missing="skip"), absent.sources)


def check(folder: Path, settings: DataSettings, *, is_resumed: bool = True) -> None:
    indexes, sources = open_sources(settings)
    check_mixture(folder, sources, indexes, is_resumed=is_resumed)


def test_the_same_mixture_may_be_resumed_and_moved(towns: Path, tmp_path: Path) -> None:
    index = load_index(towns)
    records = [index[row] for row in range(len(index))]
    moved = tmp_path / "moved.parquet"
    write_index(moved, records)
    check(tmp_path / "run", data((towns, 1.0)), is_resumed=False)
    check(tmp_path / "run", data((towns, 1.0)))
    check(tmp_path / "run", data((moved, 1.0)))
    noted = json.loads((tmp_path / "run" / "mixture.json").read_text())
    assert [(entry["index"], entry["weight"], entry["sequences"]) for entry in noted] == [
        (str(towns), 1.0, 4)
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("weight", r"the weight of .*index.parquet was 1.0 and is 2.0"),
        ("sequences", r"index.parquet \(4 sequences\) is now .*fewer.parquet \(3\)"),
        ("more", "fewer.parquet is new"),
        ("gone", "fewer.parquet is gone"),
    ],
)
def test_another_mixture_is_refused_in_one_line(
    towns: Path, tmp_path: Path, change: str, message: str
) -> None:
    index, fewer = load_index(towns), tmp_path / "fewer.parquet"
    write_index(fewer, [index[row] for row in range(3)])
    run, one, two = tmp_path / "run", data((towns, 1.0)), data((towns, 1.0), (fewer, 1.0))
    began = two if change == "gone" else one
    other = {"weight": data((towns, 2.0)), "sequences": data((fewer, 1.0)), "more": two, "gone": one}[change]
    check(run, began, is_resumed=False)
    with pytest.raises(UserError, match=message) as caught:
        check(run, other)
    assert "\n" not in str(caught.value)
    check(run, other, is_resumed=False)  # nothing was trained yet: the new one is noted
    check(run, other)


def test_a_run_from_before_there_was_a_note_goes_on(towns: Path, tmp_path: Path) -> None:
    check(tmp_path / "run", data((towns, 1.0)), is_resumed=True)
    with pytest.raises(UserError):
        check(tmp_path / "run", data((towns, 2.0)), is_resumed=True)
