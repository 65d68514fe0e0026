"""Quirks of Aria's sets: halves, unpacking of recordings."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scal3r_data_tools.formats.aria import AriaCamera
from scal3r_data_tools.preparing import aria_digital_twin as aria_digital_twin_prepare
from scal3r_data_tools.preparing.aria_digital_twin import RecordedFrame, open_recording
from scal3r_data_tools.registry import ADAPTERS
from scal3r_train.config import UserError, load_config
from scal3r_train.data.io.image_codec import read_image
from scal3r_train.data.sequence import SequenceRecord
from tests.data_tools.layouts import aria_digital_twin, aria_synthetic_environments
from tests.data_tools.miniature import Miniature, make_miniature
from tests.data_tools.test_layouts import compare_cameras, compare_pixels


def index(name: str, folder: Path) -> list[SequenceRecord]:
    adapter = ADAPTERS[name]
    return list(adapter.records(folder, load_config(adapter.options, None)))


def test_aria_synthetic_halves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = make_miniature(num_frames=2, hw=(16, 16), focal=(10, 10))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aria_synthetic_environments, "SIDE", 16)
        aria_synthetic_environments.write(tmp_path, scene)
    shutil.copytree(tmp_path / "10", tmp_path / "9")
    (tmp_path / "9" / "trajectory.csv").rename(tmp_path / "9" / "trajectory.txt")
    (tmp_path / "11" / "rgb").mkdir(parents=True)
    first, second = index("aria_synthetic_environments", tmp_path)
    assert (first.sequence_id, second.sequence_id) == ("9", "10")
    assert "11/trajectory.csv does not exist" in capsys.readouterr().err
    (alone,) = index("aria_synthetic_environments", tmp_path / "10")
    assert alone.image == second.image
    path = tmp_path / "10" / "trajectory.csv"
    path.write_text(path.read_text().partition("\n")[2])
    with pytest.raises(UserError, match=r"trajectory\.csv has no column tracking_timestamp_us"):
        index("aria_synthetic_environments", tmp_path / "10")


class FakeRecording:
    """A recording of the miniature: image 1 has no pose, image 2 no depth."""

    def __init__(self, scene: Miniature) -> None:
        self.scene, self.num_read = scene, 0
        self.camera = AriaCamera(scene.hw, aria_digital_twin.PARAMETERS, aria_digital_twin.DEVICE_FROM_CAM)
        self.times_ns = [int(time * 1e9) for time in scene.timestamp]

    def frame(self, time_ns: int, tolerance_ns: int) -> RecordedFrame | None:
        self.num_read += 1
        i = self.times_ns.index(time_ns)
        if i == 1:
            return None
        device_from_cam = np.vstack([aria_digital_twin.DEVICE_FROM_CAM, [0, 0, 0, 1]])
        world_from_device = self.scene.world_from_cam[i] @ np.linalg.inv(device_from_cam)
        depth = None if i == 2 else aria_digital_twin.depth_mm(self.scene, i)
        return RecordedFrame(self.scene.images[i], depth, world_from_device[:3])


def test_aria_recordings_are_unpacked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = aria_digital_twin.scene()
    recording = FakeRecording(scene)
    options = aria_digital_twin_prepare.Options(every=1)
    target = tmp_path / "out" / "seq131"
    aria_digital_twin_prepare.unpack(tmp_path / "in" / "seq131", target, options, lambda *_: recording)
    assert "1 images have no pose and are left out" in capsys.readouterr().err
    assert sorted(path.name for path in target.parent.iterdir()) == ["seq131"]
    (record,) = index("aria_digital_twin", tmp_path / "out")
    assert [bool(name) for name in record.depth] == [True, False, True, True, True, True]
    assert record.timestamp == pytest.approx(scene.timestamp[[0, 2, 3, 4, 5, 6]])
    kept = replace(scene, cam_from_world=np.delete(scene.cam_from_world, 1, 0))
    compare_cameras(record, kept, 1.0)
    compare_pixels(record, 3, kept, 1.0)


def test_aria_unpacking_goes_on_where_it_stopped(tmp_path: Path) -> None:
    recording = FakeRecording(aria_digital_twin.scene())
    source, target = tmp_path / "in" / "seq131", tmp_path / "out" / "seq131"
    options = aria_digital_twin_prepare.Options(every=3)

    class Interrupted(FakeRecording):
        def frame(self, time_ns: int, tolerance_ns: int) -> RecordedFrame | None:
            if self.num_read == 2:
                raise KeyboardInterrupt
            return super().frame(time_ns, tolerance_ns)

    with pytest.raises(KeyboardInterrupt):
        aria_digital_twin_prepare.unpack(source, target, options, lambda *_: Interrupted(recording.scene))
    assert not target.exists()
    begun = tmp_path / "out" / ".seq131.partial" / "rgb" / "000000.jpg"
    Image.new("RGB", (352, 352)).save(begun)  # to be seen again, if it is not written anew
    again = aria_digital_twin_prepare.Options(every=3, num_workers=1)
    aria_digital_twin_prepare.unpack(source, target, again, lambda *_: recording)
    assert sorted(path.name for path in (target / "rgb").iterdir()) == [f"{i:06d}.jpg" for i in (0, 3, 6)]
    assert read_image(target / "rgb" / "000000.jpg").max() == 0
    source.mkdir(parents=True)
    (source / "video.vrs").write_bytes(b"")
    aria_digital_twin_prepare.prepare(tmp_path / "in", tmp_path / "out", again)  # finished: nothing is opened
    other = aria_digital_twin_prepare.Options(every=5)
    with pytest.raises(UserError, match="made with other options"):
        aria_digital_twin_prepare.prepare(tmp_path / "in", tmp_path / "out", other)
    with pytest.raises(
        UserError, match=r"video\.vrs is a recording, not yet unpacked; run `scal3r data prepare"
    ):
        index("aria_digital_twin", tmp_path / "in")


def test_aria_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names that preparing/aria_digital_twin.py uses exist; without the package one line says so."""
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "projectaria_tools", None)
        with pytest.raises(UserError, match="needs projectaria_tools: pip install projectaria-tools"):
            open_recording(tmp_path, with_people=False)
    adt = pytest.importorskip("projectaria_tools.projects.adt")
    with pytest.raises(UserError, match="cannot be opened as a recording of Aria Digital Twin: ."):
        open_recording(tmp_path / "none", with_people=False)
    provider = vars(adt.AriaDigitalTwinDataProvider)
    assert {
        "get_aria_device_capture_timestamps_ns", "get_aria_camera_calibration", "get_aria_image_by_timestamp_ns",
        "get_depth_image_by_timestamp_ns", "get_aria_3d_pose_by_timestamp_ns", "has_depth_images",
    } <= set(provider)  # fmt: skip
    for answer in (adt.AriaImageDataWithDt, adt.DepthDataWithDt, adt.Aria3dPoseDataWithDt):
        assert {"is_valid", "data", "dt_ns"} <= set(vars(answer))
    assert "transform_scene_device" in vars(adt.Aria3dPose)
    assert "to_numpy_array" in vars(adt.DepthData)
