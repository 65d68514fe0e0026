"""Six mistakes per family of conventions, written by the family's writer, read by the real adapter, named by check.

To add a family: its layout in `tests/data_tools/layouts/` and mistakes that suit it.
"""

import importlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scal3r_data_tools import check, index
from scal3r_data_tools.checking.evidence import CheckSettings
from scal3r_data_tools.checking.examine import examine
from scal3r_train.config import UserError
from scal3r_train.data.index.index import check_rotations, load_index, write_index
from scal3r_train.data.sequence import SequenceRecord
from tests.data_tools import planted
from tests.data_tools.miniature import Miniature, make_miniature, pinhole_rays, render
from tests.data_tools.neutral import neutral_record

SETTINGS = CheckSettings(num_pairs=18, gaps=(1, 3, 5), decode_every=0, num_workers=1, max_features=600)
Mistake = Callable[[Miniature], Miniature]


@dataclass(frozen=True)
class Family:
    """layout: a module of tests.data_tools.layouts; mistakes by the name that the check must give them."""

    layout: str
    mistakes: dict[str, Mistake]


FAMILIES = {
    "colmap": Family(
        "colmap",
        {
            "inverted": planted.inverted,
            "quaternion_wxyz": planted.quaternions_reordered,
            "position_as_translation": planted.position_as_translation,
            "focal": planted.focal_times(1.3),
            "image_size": planted.intrinsics_times(0.5),
            "opengl": planted.with_axes("opengl"),
        },
    ),
    "nerfstudio": Family(
        "nerfstudio",
        {
            "inverted+opengl": planted.inverted_in_file(planted.Z_UP, "opengl"),
            "opengl": planted.with_axes("opengl"),
            "flu": planted.with_axes("flu"),
            "image_size": planted.intrinsics_times(0.5),
            "focal": planted.focal_times(0.75),
            "shift+2": planted.shifted(-2),
        },
    ),
    "text": Family(
        "kitti_odometry",
        {
            "inverted": planted.inverted,
            "opengl": planted.with_axes("opengl"),
            "ned": planted.with_axes("ned"),
            "shift-3": planted.shifted(3),
            "image_size": planted.intrinsics_times(0.5),
            "focal": planted.focal_times(1.3),
        },
    ),
    "pytorch3d": Family(
        "co3d_v2",
        {
            "pytorch3d": planted.with_axes("pytorch3d"),
            "inverted": planted.inverted,
            "inverted+pytorch3d": planted.both(planted.with_axes("pytorch3d"), planted.inverted),
            "opengl": planted.with_axes("opengl"),
            "shared_intrinsics": planted.shared_intrinsics,
            "unit": planted.wrong_unit(10),
        },
    ),
    "ned": Family(
        "tartanair",
        {
            "ned": planted.with_axes("ned"),
            "inverted+ned": planted.inverted,  # in the file, whose world is NED as well
            "ray_for_z": planted.ray_length_as_z,
            "bottom_up": planted.bottom_up,
            "unit": planted.wrong_unit(0.01),
            "shift+1": planted.shifted(-1),
        },
    ),
    "exr_pfm": Family(
        "blended_mvs",
        {
            "bottom_up": planted.bottom_up,
            "ray_for_z": planted.ray_length_as_z,
            "unit": planted.wrong_unit(0.1),
            "focal": planted.focal_times(1.3),
            "half_pixel": planted.half_pixel,
            "inverted": planted.inverted,
        },
    ),
    "ray": Family(
        "hypersim",
        {
            "z_for_ray": planted.z_as_ray_length,
            "bottom_up": planted.bottom_up,
            "unit": planted.wrong_unit(1000),
            "opengl": planted.with_axes("opengl"),
            "focal": planted.focal_times(0.75),
            "shift+1": planted.shifted(-1),
        },
    ),
}


def cases() -> Iterator[Any]:
    """Every mistake of every family; slow are those that another family makes as well.

    The check sees cameras and pictures whatever adapter read them (test_layouts.py compares what each of those
    reads), so that a mistake is found in all families or in none.
    """
    seen: set[str] = set()
    for family, one in FAMILIES.items():
        for mistake in one.mistakes:
            yield pytest.param(family, mistake, marks=[pytest.mark.slow] if mistake in seen else [])
            seen.add(mistake)


@lru_cache(maxsize=4)
def scene_of(layout: str) -> Miniature:
    module = importlib.import_module(f"tests.data_tools.layouts.{layout}") if layout else None
    return module.scene() if module and "scene" in vars(module) else make_miniature()


def written(family: Family, scene: Miniature, folder: Path) -> SequenceRecord:
    """The scene as the family's data sets would be read."""
    module = importlib.import_module(f"tests.data_tools.layouts.{family.layout}")
    (folder / "source").mkdir()
    module.write(folder / "source", scene)
    assert index.main(family.layout, folder / "source", folder / "i.parquet") == 0
    return replace(load_index(folder / "i.parquet")[0], is_synthetic=True)


def test_every_family_has_six() -> None:
    assert all(len(family.mistakes) == 6 for family in FAMILIES.values())


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_is_wrong_with_good_data(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    report = examine(written(family, scene_of(family.layout), tmp_path), SETTINGS)
    assert report.problems == []
    assert report.is_decidable


@pytest.mark.parametrize(("name", "mistake"), cases())
def test_the_mistake_is_named(name: str, mistake: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    scene = family.mistakes[mistake](scene_of(family.layout))
    report = examine(written(family, scene, tmp_path), SETTINGS)
    assert report.mistakes == (mistake,), report.problems


def test_a_reflected_world_is_named_and_not_indexed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = neutral_record(planted.reflected(scene_of("")), tmp_path / "neutral")
    with pytest.raises(UserError, match="not a rigid transform"):
        check_rotations(record, tmp_path)
    write_index(tmp_path / "reflected.parquet", [record])
    assert check.main(tmp_path / "reflected.parquet") == 1
    assert "the world is reflected (left-handed)" in capsys.readouterr().out


def test_a_jump_of_the_scale_is_named(tmp_path: Path) -> None:
    scene = planted.scale_jump(make_miniature(num_frames=20, hw=(90, 120), focal=(98.0, 96.0)))
    settings = CheckSettings(num_pairs=20, gaps=(1, 3), decode_every=0, num_workers=1)
    report = examine(neutral_record(scene, tmp_path / "jump", "npy"), settings)
    assert report.mistakes == ("scale_jump",)
    numbers = re.search(r"factor of ([\d.]+) before, ([\d.]+) after", report.problems[0])
    assert numbers is not None
    assert float(numbers[1]) / float(numbers[2]) == pytest.approx(2, rel=0.1)


def test_what_cannot_be_told_apart_is_not_guessed(tmp_path: Path) -> None:
    """A camera that only goes forward: reversed poses and OpenGL axes put it behind itself in the same way."""
    scene = straight(scene_of(""))
    report = examine(neutral_record(planted.inverted(scene), tmp_path / "straight"), SETTINGS)
    assert {"inverted", "opengl"} <= set(report.mistakes)
    assert "cannot be told apart" in report.problems[0]


def straight(scene: Miniature) -> Miniature:
    """The scene seen by a camera that moves along its optical axis without turning."""
    poses = np.tile(np.eye(4)[:3], (scene.num_frames, 1, 1))
    poses[:, 2, 3] = 1.5 - 0.15 * np.arange(scene.num_frames)
    frames = [render(pose, pinhole_rays(scene.intrinsics[0], scene.hw)) for pose in poses]
    images, depth, length = (np.stack(values) for values in zip(*frames, strict=True))
    return replace(scene, images=images, depth=depth, length=length, cam_from_world=poses)


def test_frames_that_share_nothing_are_undecidable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (12, 120, 160, 3), dtype=np.uint8)
    record = neutral_record(replace(scene_of(""), images=noise), tmp_path / "noise")
    write_index(tmp_path / "i.parquet", [record])
    assert check.main(tmp_path / "i.parquet", ["num_pairs=6", "max_features=300"]) == 0
    assert "geometry is undecidable" in capsys.readouterr().out


def test_unordered_frames_are_compared_by_covisibility(tmp_path: Path) -> None:
    scene = planted.with_axes("opengl")(scene_of(""))
    record = neutral_record(scene, tmp_path / "unordered", is_ordered=False)
    num = record.num_frames
    near = np.array(
        [sorted((j for j in range(num) if j != i), key=lambda j: abs(i - j))[:4] for i in range(num)]
    )
    for one in (record, replace(record, covisible=near)):
        assert examine(one, SETTINGS).mistakes == ("opengl",)


def test_the_report_holds_numbers_and_pictures(tmp_path: Path) -> None:
    good = neutral_record(scene_of(""), tmp_path / "good", "npy", name="a/good one")
    bad = neutral_record(planted.inverted(scene_of("")), tmp_path / "bad", "npy", name="<bad>")
    write_index(tmp_path / "i.parquet", [good, bad])
    settings = ["num_pairs=6", "decode_every=6", f"report={tmp_path / 'report'}"]
    assert check.main(tmp_path / "i.parquet", settings) == 1
    facts = json.loads((tmp_path / "report" / "report.json").read_text())["sequences"]
    assert [fact["mistakes"] for fact in facts] == [[], ["inverted"]]
    assert facts[0]["depth_warp"] < 1e-4
    for fact in facts:
        with Image.open(tmp_path / "report" / fact["picture"]) as picture:
            assert min(picture.size) > 500
    page = (tmp_path / "report" / "report.html").read_text()
    assert "&lt;bad&gt;" in page and "<bad>" not in page
    assert page.count("data:image/png;base64,") == 2


def test_settings_are_strict(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'num_pairs'"):
        check.main(tmp_path / "i.parquet", ["num_pair=3"])


def test_bad_numbers_and_ranges_are_named(tmp_path: Path) -> None:
    scene = scene_of("")
    record = neutral_record(scene, tmp_path / "scaled")
    assert record.cam_from_world is not None
    scaled = record.cam_from_world * np.array([2.0, 2, 2, 1])
    assert (
        "rotations are multiplied by 2"
        in examine(replace(record, cam_from_world=scaled), SETTINGS).problems[0]
    )
    assert (
        "look normalised"
        in examine(
            replace(record, intrinsics=record.intrinsics / [160, 120, 160, 120] * [-1, 1, 1, 1]), SETTINGS
        ).problems[0]
    )
    swapped = neutral_record(scene, tmp_path / "swapped", "npy")
    for name in swapped.depth:  # what a reader of the wrong byte order sees
        path = swapped.root / name
        np.save(path.with_suffix(".npy"), np.load(path).astype("<f4").view(">f4").astype("<f4"))
        path.with_suffix(".npy").rename(path)
    report = examine(swapped, CheckSettings(decode_every=1, num_workers=1))
    assert "wrong byte order" in report.problems[0]
