"""synth, index and check on small towns, and what check must not let pass."""

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scal3r_data_tools import check, index, synth
from scal3r_train.config import UserError
from scal3r_train.data.index.index import load_index, write_index
from scal3r_train.data.io.frame_io import read_frames
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.data.synthetic.town import TownSettings, render_town

SIZE = ["num_frames=24", "height=28", "width=42", "num_workers=1", "fog_share=0"]


@pytest.fixture(scope="module")
def towns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "towns"
    assert synth.main(folder, [*SIZE, "num_sequences=2"]) == 0
    return folder


@pytest.fixture
def record(towns: Path) -> SequenceRecord:
    return load_index(towns / "index.parquet")[0]


def test_files_hold_what_is_rendered(towns: Path, record: SequenceRecord) -> None:
    assert sorted(path.name for path in towns.iterdir()) == [
        "index.parquet", "town_000_00000", "town_000_00001", "towns.yaml",
    ]  # fmt: skip
    expected = render_town(TownSettings(num_frames=24, height=28, width=42, fog_share=0.0), 0)
    got = read_frames(record, range(24), (28, 42))
    assert torch.equal(got.images, expected.images)
    assert got.depth is not None and expected.depth is not None
    assert got.extrinsics is not None and expected.extrinsics is not None
    assert got.intrinsics is not None and expected.intrinsics is not None
    assert (got.depth - expected.depth).abs().max() < 0.0051  # stored in centimetres
    assert torch.equal(got.extrinsics, expected.extrinsics)
    assert torch.equal(got.intrinsics, expected.intrinsics)
    assert record.is_metric and record.is_synthetic


def test_workers_do_not_change_the_result(towns: Path, tmp_path: Path) -> None:
    assert synth.main(tmp_path / "again", [*SIZE, "num_sequences=2", "num_workers=2"]) == 0
    name = "town_000_00001/rgb/000011.png"
    assert (tmp_path / "again" / name).read_bytes() == (towns / name).read_bytes()


def test_synth_does_its_work_once_and_overwrites_nothing(towns: Path, tmp_path: Path) -> None:
    before = (towns / "index.parquet").stat().st_mtime_ns
    assert synth.main(towns, [*SIZE, "num_sequences=2"]) == 0
    assert (towns / "index.parquet").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="holds something else"):
        synth.main(towns, [*SIZE, "num_sequences=3"])
    with pytest.raises(UserError, match="num_sequences"):
        synth.main(tmp_path / "new", ["num_sequences=0"])
    assert list(tmp_path.iterdir()) == []


def test_towns_of_before_a_setting_existed_are_the_same(towns: Path, tmp_path: Path) -> None:
    folder = tmp_path / "towns"
    shutil.copytree(towns, folder)
    path = folder / synth.SETTINGS_FILE
    kept = [line for line in path.read_text().splitlines() if not line.startswith("steady_share")]
    assert len(kept) == len(path.read_text().splitlines()) - 1
    path.write_text("\n".join(kept))
    assert synth.main(folder, [*SIZE, "num_sequences=2"]) == 0
    path.write_text("nonsense: 1\n")
    with pytest.raises(UserError, match="holds something else"):
        synth.main(folder, [*SIZE, "num_sequences=2"])


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(synth, "write_index", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        synth.main(tmp_path / "towns", [*SIZE, "num_sequences=1"])
    assert list(tmp_path.iterdir()) == []


def test_check_passes_good_towns(towns: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(towns / "index.parquet") == 0
    assert "2 sequences, 48 frames: 0 sequences with problems" in capsys.readouterr().out


def inverted(record: SequenceRecord) -> SequenceRecord:
    assert record.cam_from_world is not None
    rotation = record.cam_from_world[:, :, :3].transpose(0, 2, 1)
    position = -rotation @ record.cam_from_world[:, :, 3:]
    return dataclasses.replace(record, cam_from_world=np.concatenate([rotation, position], -1))


def reflected(record: SequenceRecord) -> SequenceRecord:
    assert record.cam_from_world is not None
    return dataclasses.replace(record, cam_from_world=record.cam_from_world * np.array([1, -1, 1])[:, None])


def backwards_in_time(record: SequenceRecord) -> SequenceRecord:
    return dataclasses.replace(record, timestamp=record.timestamp[::-1].copy())


def shifted_poses(record: SequenceRecord) -> SequenceRecord:
    assert record.cam_from_world is not None
    return dataclasses.replace(record, cam_from_world=np.roll(record.cam_from_world, 4, axis=0))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (inverted, "the poses are inverted .world_from_cam taken for cam_from_world."),
        (
            lambda record: dataclasses.replace(record, depth_codec="uint16_mm"),
            "wrong unit of depth or poses: .*depth codec uint16_cm instead of uint16_mm would do",
        ),
        (
            lambda record: dataclasses.replace(record, depth_codec="uint16_256ths"),
            "wrong unit of depth or poses",
        ),
        (reflected, "is not a rigid transform"),
        (shifted_poses, "each belongs to the image 4 frames earlier"),
        (backwards_in_time, "timestamp of frame 1"),
        (lambda record: dataclasses.replace(record, image_size=record.image_size + 1), "the index says"),
        (lambda record: dataclasses.replace(record, intrinsics=record.intrinsics * -1), "implausible"),
    ],
)
def test_check_fails_wrong_data(
    record: SequenceRecord,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[SequenceRecord], SequenceRecord],
    message: str,
) -> None:

    write_index(tmp_path / "index.parquet", [spoil(record)])
    assert check.main(tmp_path / "index.parquet") == 1
    assert re.search(message, capsys.readouterr().out)


def test_check_names_bad_files(towns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(towns, folder)
    (folder / "town_000_00000/rgb/000003.png").unlink()
    cut = folder / "town_000_00000/depth/000004.png"
    cut.write_bytes(cut.read_bytes()[:100])
    Image.fromarray(np.zeros((28, 42), np.uint16)).save(folder / "town_000_00000/depth/000005.png")
    assert check.main(folder / "index.parquet") == 1
    lines = capsys.readouterr().out.splitlines()
    assert any("rgb/000003.png does not exist" in line for line in lines)
    assert any("depth/000004.png cannot be read" in line for line in lines)
    assert any("depth/000005.png: no valid depth" in line for line in lines)
    assert lines[-1].endswith("1 sequences with problems")


def test_check_notes_repeated_pictures(
    towns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(towns, folder)
    for name in ("000007", "000008"):
        shutil.copy(folder / "town_000_00001/rgb/000006.png", folder / f"town_000_00001/rgb/{name}.png")
    assert check.main(folder / "index.parquet") == 0  # cameras do that
    assert "note: 2 frames repeat an earlier picture, first " in capsys.readouterr().out


def test_index_refuses_what_it_does_not_know(tmp_path: Path, towns: Path) -> None:
    with pytest.raises(UserError, match="dataset 'kitty' is unknown; .*known are .*game_loop, "):
        index.main("kitty", towns, tmp_path / "x.parquet")
    with pytest.raises(UserError, match="does not exist"):
        index.main("towns", towns / "nowhere", tmp_path / "x.parquet")
    with pytest.raises(UserError, match="must end in .parquet"):
        index.main("towns", towns, tmp_path / "x.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no sequence in the layout of towns"):
        index.main("towns", tmp_path / "empty", tmp_path / "x.parquet")
    with pytest.raises(UserError, match="holds no images"):
        index.main("images", tmp_path / "empty", tmp_path / "x.parquet")
    assert not (tmp_path / "x.parquet").exists()


def test_towns_can_be_indexed_again(towns: Path, tmp_path: Path) -> None:
    assert index.main("towns", towns, tmp_path / "x.parquet") == 0
    assert load_index(tmp_path / "x.parquet").sequence_ids == ["town_000_00000", "town_000_00001"]


@pytest.mark.parametrize(("option", "height"), [("unit=33", None), ("camera_height=0.05", 0.05)])
def test_an_index_may_have_another_unit_of_length(
    towns: Path, tmp_path: Path, record: SequenceRecord, option: str, height: float | None
) -> None:
    """Depth and camera centres shrink alike; the pictures' geometry stays."""
    assert index.main("towns", towns, tmp_path / "other.parquet", [option]) == 0
    other = load_index(tmp_path / "other.parquet").find(record.sequence_id)
    metres, units = (read_frames(one, range(24), (28, 42)) for one in (record, other))
    assert metres.extrinsics is not None and units.extrinsics is not None
    assert metres.depth is not None and units.depth is not None
    centres, scaled = (
        -(frames[:, :, :3].mT @ frames[:, :, 3:])[..., 0] for frames in (metres.extrinsics, units.extrinsics)
    )
    unit = 33.0 if height is None else float(centres[:, 2].mean()) / height
    torch.testing.assert_close(scaled * unit, centres)
    torch.testing.assert_close(units.depth * unit, metres.depth, atol=1e-3, rtol=1e-5)
    if height is not None:
        assert float(scaled[:, 2].mean()) == pytest.approx(height), "the ground of a town is z = 0"
    assert torch.equal(metres.extrinsics[..., :3], units.extrinsics[..., :3])
    assert not other.is_metric
