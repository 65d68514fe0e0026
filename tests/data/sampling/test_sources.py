"""What a mixture may show: the deny-list, the share of rendered data, and shapes that fit."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from scal3r_train.config import UserError
from scal3r_train.data.index.index import load_index, write_index
from scal3r_train.data.sampling.curriculum import CurriculumSettings, Resolution
from scal3r_train.data.sampling.deny_list import denied
from scal3r_train.data.sampling.plan import Source, plan_step
from scal3r_train.data.sampling.sources import DataSettings, SourceSettings, deny_list_in_words, open_sources


def settings(*indexes: Path, **others: object) -> DataSettings:
    return DataSettings(sources=tuple(SourceSettings(index=str(index)) for index in indexes), **others)


def with_changes(towns: Path, path: Path, *changes: dict) -> Path:
    index = load_index(towns)
    write_index(path, [dataclasses.replace(index[row], **change) for row, change in enumerate(changes)])
    return path


def test_benchmark_scenes_are_named() -> None:
    found = denied(
        ["kitti_raw", "kitti_raw", "kitti_odometry", "towns", "towns", "scannet_pp", "tum"],
        [
            "2011_09_30/2011_09_30_drive_0016_sync",
            "2011_09_26/2011_09_26_drive_0001_sync",
            "04",
            "a",
            "b",
            "x",
            "fr1",
        ],
        ["train", "train", "train", "train", "test", "val", "train"],
    )
    assert found == [True, False, True, False, True, True, True]


@pytest.mark.parametrize("layout", ["wai", "vggt_omega", "colmap", "nerfstudio", "cut3r"])
def test_layouts_that_hold_any_set_are_told_by_their_folders(layout: str) -> None:
    names = [
        "eth3d/courtyard",
        "ETH3D/kicker",
        "7-scenes/chess",
        "blendedmvs/a",
        "2011_09_30_drive_0016_sync",
        "courtyard",
    ]
    found = denied([layout] * len(names), names, ["train"] * len(names))
    assert found == [True, True, True, False, True, False]


def test_a_scene_that_is_never_drawn_need_not_be_trainable(towns: Path, tmp_path: Path) -> None:
    path = with_changes(towns, tmp_path / "i.parquet", {}, {"split": "test", "cam_from_world": None})
    assert open_sources(settings(path))[1][0].num_frames.tolist() == [20, 0]
    with pytest.raises(UserError, match="has no poses"):
        open_sources(settings(path, deny_list="off"))


def test_photographs_are_walked_from_anywhere() -> None:
    """Neither a stride nor the length of the window keeps a walk from beginning at some frame."""
    source = Source("photos", 1.0, np.array([100, 30]), None, np.array([False, False]))
    curriculum = CurriculumSettings(
        chunk_size={16: 1.0},
        overlap={0: 1.0},
        chunks_per_rank={6: 1.0},
        stride={4: 1.0},
        reverse_probability=0.0,
    )
    windows = [plan_step(curriculum, [source], 0, step, 1).groups[0].windows[0] for step in range(300)]
    assert {window.row for window in windows} == {0}  # 96 frames fit, whatever the stride
    assert {window.stride for window in windows} == {1}
    assert len({window.start for window in windows}) > 90
    assert max(window.start for window in windows) > 95


def test_denied_sequences_are_never_drawn(towns: Path, tmp_path: Path) -> None:
    path = with_changes(towns, tmp_path / "i.parquet", {"split": "test"}, {}, {"dataset": "eth3d"}, {})
    mixture = settings(path)
    indexes, sources = open_sources(mixture)
    curriculum = CurriculumSettings(chunk_size={4: 1.0}, overlap={1: 1.0})
    rows = {plan_step(curriculum, sources, 0, step, 1).groups[0].windows[0].row for step in range(100)}
    assert rows == {1, 3}
    assert deny_list_in_words(mixture, indexes).endswith("2 sequences of these indexes were kept out")
    off = settings(path, deny_list="off")
    assert (open_sources(off)[1][0].num_frames == 20).all()
    assert "not applied" in deny_list_in_words(off, indexes)


def test_a_source_of_benchmark_scenes_only_is_refused(towns: Path, tmp_path: Path) -> None:
    path = with_changes(towns, tmp_path / "i.parquet", {"dataset": "tum"})
    with pytest.raises(UserError, match=r"i\.parquet: all of its sequences are on the deny-list"):
        open_sources(settings(path))


def test_share_of_rendered_data(towns: Path, tmp_path: Path) -> None:
    real = with_changes(towns, tmp_path / "real.parquet", {"is_synthetic": False})
    sources = (
        SourceSettings(index=str(towns), weight=1.0),
        SourceSettings(index=str(real), weight=6.0),
        SourceSettings(index=str(towns), weight=3.0),
    )
    weights = [s.weight for s in open_sources(DataSettings(sources=sources, synthetic_share=0.4))[1]]
    assert weights == pytest.approx([0.1, 0.6, 0.3])
    with pytest.raises(UserError, match="all sources are rendered"):
        open_sources(settings(towns, synthetic_share=0.4))
    both = with_changes(towns, tmp_path / "both.parquet", {"is_synthetic": False}, {})
    with pytest.raises(UserError, match=r"both\.parquet mixes real and rendered"):
        open_sources(settings(both, real, synthetic_share=0.4))


def test_aspects_are_those_of_upright_images(towns: Path, tmp_path: Path) -> None:
    path = with_changes(towns, tmp_path / "i.parquet", {}, {"quarter_turns": 1}, {})
    assert open_sources(settings(path))[1][0].aspects == pytest.approx([1.5, 1 / 1.5, 1.5])


def test_sequences_that_would_be_cropped_most_are_drawn_last() -> None:
    lengths = np.full(4, 50)
    source = Source("mixed", 1.0, lengths, np.array([1.5, 0.6, 1.4, 0.5]))
    wide = CurriculumSettings(
        chunk_size={4: 1.0},
        overlap={1: 1.0},
        resolution=(Resolution(height=28, width=42),),
        min_kept_area=0.8,
    )
    rows = {plan_step(wide, [source], 0, step, 1).groups[0].windows[0].row for step in range(60)}
    assert rows == {0, 2}
    portrait = dataclasses.replace(source, aspects=np.full(4, 0.5))  # nothing fits: then all do
    rows = {plan_step(wide, [portrait], 0, step, 1).groups[0].windows[0].row for step in range(60)}
    assert rows == {0, 1, 2, 3}
