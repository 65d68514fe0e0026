"""The memory study on drives: what is hidden and how, what is held out, and a whole study in miniature."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from scal3r_eval import subprocesses
from scal3r_eval.bootstrap import BootstrapSettings, mean_interval
from scal3r_eval.study import drives, scoring
from scal3r_eval.study.__main__ import main
from scal3r_eval.study.chunk_errors import ChunkMotion
from scal3r_eval.study.drives import DriveSettings, in_fog, make_held_out, make_training, window_starts
from scal3r_eval.study.held_out import Reading, load_motion, load_sequence
from scal3r_eval.study.settings import StudyRecipe, load_study
from scal3r_train.config import UserError
from scal3r_train.data.index.index import SequenceIndex, load_index, write_index
from scal3r_train.data.io.frame_io import read_frame_depth, read_frame_image, read_frames
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.data.synthetic.settings import read_blackouts
from scal3r_train.geometry.camera import fov_from_intrinsics
from scal3r_train.inference.chunking import ScheduleSettings
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.recipe import load_training_recipe
from tests.conftest import PROJECT_ROOT
from tests.eval.drives_on_disk import STEP, write_drives
from tests.forking import ForkServer

RECIPES = PROJECT_ROOT / "recipes" / "study"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drives(tmp_path_factory.mktemp("drives"))


@pytest.fixture(scope="module")
def settings(source: Path) -> DriveSettings:
    return DriveSettings(index=source, blackout_every=16, blackout_frames=6, fog_distance=0.1)


@pytest.fixture(scope="module")
def held_out(settings: DriveSettings, tmp_path_factory: pytest.TempPathFactory) -> SequenceIndex:
    folder = tmp_path_factory.mktemp("made") / "held_out"
    assert make_held_out(settings, folder, chunks=5, num_frames=24, windows=2) == 3
    return load_index(folder / "index.parquet")


@pytest.mark.parametrize(("total", "wanted", "number"), [(60, 2, 2), (60, 9, 2), (24, 3, 1), (23, 3, 0)])
def test_windows_do_not_overlap(total: int, wanted: int, number: int) -> None:
    starts = window_starts(total, 24, wanted)
    assert len(starts) == number
    ends = [start + 24 for start in starts]
    assert all(0 <= start and end <= total for start, end in zip(starts, ends, strict=True))
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
    if starts:
        assert abs(starts[0] - (total - ends[-1])) <= 1, "as much before the first as behind the last"


def test_fog_takes_light_by_the_length_of_the_ray() -> None:
    image = np.full((2, 2, 3), 200, np.uint8)
    depth = np.array([[1.0, 2.0], [-1.0, 0.0]], np.float32)
    seen = in_fog(image, depth, np.array([1.0, 1.0, 1.0, 1.0]), distance=1.5, brightness=0.6)
    for place, z in enumerate((1.0, 2.0)):  # rays through (+-0.5, -0.5) at z = 1
        share = np.exp(-z * np.sqrt(1.5) / 1.5)
        assert seen[0, place].tolist() == [round(200 * share + 153 * (1 - share))] * 3
    assert (seen[1] == 153).all(), "sky and what is too far are all fog"


def test_a_window_is_its_drive_but_for_hidden_pictures(
    held_out: SequenceIndex, settings: DriveSettings
) -> None:
    index = load_index(settings.index)
    names = held_out.sequence_ids
    assert {drives.drive_of(name) for name in names} == {"three/000", "four/000"}
    assert [drives.kind_of(name) for name in names] == ["clear", "fog", "black"] * 3
    hidden_by_window: dict[str, list[np.ndarray]] = {}
    for name in names:
        window, drive = held_out.find(name), index.find(drives.drive_of(name))
        start, kind = int(name.split("/")[-1]), drives.kind_of(name)
        assert name == drives.held_out_name(5, kind, drive.sequence_id, start)
        assert window.split == drive.split
        assert window.num_frames == 24
        assert window.cam_from_world is not None and drive.cam_from_world is not None
        np.testing.assert_array_equal(window.cam_from_world, drive.cam_from_world[start : start + 24])
        is_hidden = read_blackouts(window.root, 24)
        hidden_by_window.setdefault(f"{drive.sequence_id} {start}", []).append(is_hidden)
        for frame in range(24):
            before, image = (
                read_frame_image(record, place) for record, place in ((drive, start + frame), (window, frame))
            )
            depth = read_frame_depth(window, frame)
            assert depth is not None
            np.testing.assert_array_equal(depth, read_frame_depth(drive, start + frame))
            if not is_hidden[frame]:
                np.testing.assert_array_equal(image, before)
            elif kind == "black":
                assert not image.any()
            else:
                assert np.ptp(image[:6]) == 0, "no sky is seen through it"
                near, far = depth < np.quantile(depth[6:], 0.1), depth > np.quantile(depth[6:], 0.9)
                near &= depth > 0
                assert image[near].std() > 3 * image[far].std() > 0
    for clear, fog, black in hidden_by_window.values():
        assert not clear.any()
        np.testing.assert_array_equal(fog, black)
        assert fog.sum() == 12, "24 frames have two black-outs of 6"


def test_training_drives_are_whole_and_hidden_in_both_ways(settings: DriveSettings, tmp_path: Path) -> None:
    often = settings.model_copy(update={"blackout_every": 6, "blackout_frames": 3})
    assert make_training(often, tmp_path / "drives") == 2
    index = load_index(tmp_path / "drives" / "index.parquet")
    assert index.sequence_ids == ["one/000", "two/000"]
    assert index.num_frames == [40, 26]
    names = [Path(name).name for row in range(2) for name in index[row].image]
    kinds = ["black" if name == "black.png" else "fog" if name.startswith("fog") else "" for name in names]
    assert {kinds.count(kind) > 0 for kind in ("black", "fog", "")} == {True}
    for row in range(2):
        record = index[row]
        replaced = [not Path(name).is_absolute() for name in record.image]
        assert replaced == read_blackouts(record.root, record.num_frames).tolist()
    made = sorted(tmp_path.rglob("*"))
    again = tmp_path / "again"
    make_training(often, again)
    for path in sorted(again.rglob("*.png")):
        assert path.read_bytes() == (tmp_path / "drives" / path.relative_to(again)).read_bytes()
    times = [path.stat().st_mtime_ns for path in made]
    make_training(often, tmp_path / "drives")
    assert [path.stat().st_mtime_ns for path in made] == times, "what is there is left alone"


def test_what_was_made_otherwise_is_refused(settings: DriveSettings, tmp_path: Path) -> None:
    make_training(settings, tmp_path / "drives")
    with pytest.raises(UserError, match="made from another index or with other settings"):
        make_training(settings.model_copy(update={"seed": 1}), tmp_path / "drives")
    with pytest.raises(UserError, match="no sequence of split test or val with 100 frames, for 24 chunks"):
        make_held_out(settings, tmp_path / "long", 24, 100, 1)
    assert not (tmp_path / "long").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": ()}, "three/000 is no use to a study: it has no depth"),
        ({"quarter_turns": 1}, "not upright pinholes"),
        ({"cam_from_world": None}, "it has no poses"),
        ({"split": "train"}, "no sequence of split test or val"),
    ],
)
def test_drives_that_cannot_be_used_are_named(
    settings: DriveSettings, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    record = replace(load_index(settings.index).find("three/000"), **changes)
    write_index(tmp_path / "index.parquet", [record])
    other = settings.model_copy(update={"index": tmp_path / "index.parquet"})
    with pytest.raises(UserError, match=message):
        make_held_out(other, tmp_path / "made", 5, 24, 1)
    assert not (tmp_path / "made").exists()


def test_frames_are_taken_with_all_that_belongs_to_them(settings: DriveSettings) -> None:
    record = load_index(settings.index).find("one/000")
    record = replace(record, covisible=np.zeros((40, 2), np.int64))
    poses = record.cam_from_world
    assert poses is not None
    part = record.of_frames([7, 3])
    assert part.image == ("7.png", "3.png") and part.depth == ("7_depth.png", "3_depth.png")
    assert part.mask == () and part.distortion is None and part.covisible is None
    assert (part.root, part.sequence_id, part.depth_scale) == (record.root, "one/000", record.depth_scale)
    np.testing.assert_array_equal(part.cam_from_world, poses[[7, 3]])
    np.testing.assert_array_equal(part.timestamp, record.timestamp[[7, 3]])


READING = Reading(ScheduleSettings(chunk_size=8, overlap=4), (24, 36), "data")


def test_the_unit_of_the_data_stays_and_fields_of_view_are_those_of_the_images(
    held_out: SequenceIndex,
) -> None:
    record: SequenceRecord = held_out[2]
    sequence = load_sequence(record, READING)
    assert sequence.images.shape == (24, 3, 24, 36), "cut from 48 pixels of width"
    assert sequence.unit_m == 1
    assert sequence.motion.length == pytest.approx(np.full(5, 7 * STEP))
    intrinsics = read_frames(record, [0], (24, 36)).intrinsics
    assert intrinsics is not None
    fov = fov_from_intrinsics(intrinsics, (24, 36))[0, 1].rad2deg()
    assert sequence.motion.fov_deg == pytest.approx(np.full(5, float(fov)))
    assert float(fov) < float(np.rad2deg(2 * np.arctan(24 / record.intrinsics[0, 0]))) - 5  # type: ignore[index]
    in_mean_distance = load_sequence(record, replace(READING, normalization="sequence"))
    assert in_mean_distance.unit_m > STEP
    for normalization, unit in (("data", 1.0), ("sequence", in_mean_distance.unit_m)):
        motion = load_motion(record, replace(READING, normalization=normalization))  # type: ignore[arg-type]
        assert motion.length == pytest.approx(sequence.motion.length / unit)


def test_training_drives_shorter_than_a_chunk_teach_no_motion(monkeypatch: pytest.MonkeyPatch) -> None:
    """They end no scoring: trainings leave them out, too."""
    one = ChunkMotion(np.ones(1), np.ones((1, 3)), np.ones(1), np.ones(1))
    records = [SimpleNamespace(num_frames=number) for number in (6, 8, 30)]
    monkeypatch.setattr(scoring, "training_folder", lambda recipe: Path())
    monkeypatch.setattr(scoring, "load_index", lambda path: records)
    monkeypatch.setattr(scoring, "load_motion", lambda record, reading: {8: one, 30: one}[record.num_frames])
    reading = Reading(ScheduleSettings(chunk_size=8, overlap=4), (24, 48), "data")
    assert len(scoring._training_motion(None, reading).length) == 2


def test_sequences_of_one_group_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    one_each = rng.normal(size=(3, 6))
    draw = BootstrapSettings(resamples=400)
    names = list("abcdef")
    alone, grouped = mean_interval(one_each, draw), mean_interval(one_each, draw, names)
    assert alone == grouped, "groups of one change nothing"
    fourfold = np.repeat(one_each, 4, axis=1)
    together = mean_interval(fourfold, draw, [name for name in names for _ in range(4)])
    apart = mean_interval(fourfold, draw)
    assert alone is not None and together is not None and apart is not None
    assert (together.low, together.high, together.count) == (
        pytest.approx(alone.low),
        pytest.approx(alone.high),
        24,
    )
    assert apart.high - apart.low < together.high - together.low
    with_gaps = fourfold.copy()
    with_gaps[:, 1:4] = np.nan  # group a has one sequence left: a mean over what was drawn, not over groups
    uneven = mean_interval(with_gaps, draw, [name for name in names for _ in range(4)])
    assert uneven is not None
    assert uneven.mean == pytest.approx(np.nanmean(with_gaps))
    assert uneven.low < uneven.mean < uneven.high


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("drives=null", "give either towns or drives"),
        ("towns={}", "give either towns or drives"),
        ("held_out_seed=3", "held_out_seed goes with towns"),
        ("drives.fog_share=2", "a number from 0 to 1"),
    ],
)
def test_a_study_of_drives_that_cannot_be_is_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_study(RECIPES / "circuits.yaml", [override])


def test_the_circuits_study_is_as_large_as_it_says() -> None:
    recipe: StudyRecipe = load_study(RECIPES / "circuits.yaml", [])
    assert (recipe.lengths[0], recipe.lengths[-1], len(recipe.seeds)) == (8, 350, 3)
    assert recipe.kinds == ("clear", "fog", "black")
    assert set(recipe.variants) == {"full", "no_gcs", "no_gcm"}
    assert recipe.alignment.mode == "sim3" and recipe.alignment.common_scale.enabled, "the default seams"
    name = drives.held_out_name(350, "black", "wheel-1/000", 12)
    assert (recipe.kind_of(name), recipe.group_of(name)) == ("black", "wheel-1/000")
    assert name.startswith(recipe.length_prefix(350)) and not name.startswith(recipe.length_prefix(35))
    assert recipe.is_swept(name) and not recipe.is_swept(name.replace("black", "fog"))


TINY = """
extends: {parent}
model:
  network: {{hidden_size: 16, num_layers: 2, num_heads: 2, camera_heads: 2, direct_channels: 4, image_size: 24,
             tap_layers: [1, 1, 1, 1], memory_layers: {memories}}}
curriculum: {{sequences_per_group: 1, chunks_per_rank: {{3: 1.0, 5: 0.0, 8: 0.0}},
              resolution: [{{height: 24, width: 48}}]}}
"""


@pytest.fixture(scope="module")
def study(
    source: Path, tmp_path_factory: pytest.TempPathFactory, forks: ForkServer
) -> tuple[Path, list[str]]:
    """Folder and arguments of a tiny study of drives, which has run once."""
    folder = tmp_path_factory.mktemp("study")
    for name, memories in (("full", "[0]"), ("no_gcm", "[]")):
        text = TINY.format(parent=RECIPES / "circuits_full.yaml", memories=memories)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    arguments = [
        str(RECIPES / "circuits.yaml"),
        f"output_dir={folder}/study",
        f"variants={{full: {folder}/full.yaml, no_gcm: {folder}/no_gcm.yaml}}",
        "seeds=[0]",
        "num_steps=2",
        "jobs=1",
        f"drives.index={source}",
        "drives.blackout_every=24",
        "held_out=[{chunks: 5, sequences: 2}, {chunks: 6, sequences: 1}]",
        "at_test_time=[gcs_off]",
        "chunks_in_memory=[1, 6]",
        "bootstrap.resamples=100",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocesses, "subprocess", SimpleNamespace(run=forks.instead_of_subprocess))
        assert main(arguments) == 0
    return folder / "study", arguments


def test_results_of_each_kind_say_what_the_scores_say(study: tuple[Path, list[str]]) -> None:
    folder, _ = study
    scores = json.loads((folder / "scores" / "full_0.json").read_text())["conditions"]
    assert set(scores) == {"as_trained", "gcs_off", "memory_1", "memory_6"}
    for kind in drives.KINDS:
        numbers = json.loads((folder / f"results_{kind}.json").read_text())["results"]
        assert list(numbers["means"]) == ["prior", "copy", "full", "no_gcm", "full, gcs_off"]
        assert (numbers["num_sequences"], numbers["num_groups"]) == (5, 2)
        own = {name: found for name, found in scores["as_trained"].items() if drives.kind_of(name) == kind}
        ates = [found["ate_percent"] for found in own.values()]
        assert numbers["means"]["full"]["ate_percent"]["mean"] == pytest.approx(sum(ates) / 5)
        five = [found["ate_percent"] for name, found in own.items() if name.startswith("005/")]
        assert numbers["by_length"]["5"]["full"]["ate_percent"]["mean"] == pytest.approx(sum(five) / 3)
        is_hidden = numbers["means"]["full"]["hidden_length_percent"] is not None
        assert is_hidden == (kind != "clear")
        assert list(numbers["by_memory"]) == (["1", "6"] if kind == "black" else [])
        page = (folder / f"results_{kind}.md").read_text()
        assert f"5 windows of 2 held-out drives, hidden pictures: {kind}, seeds 0, 2 steps" in page
        assert ("## Chunks that show nothing" in page) == (kind != "clear")
    clear, black = (
        {name.replace(kind, ""): found for name, found in scores["as_trained"].items() if kind in name}
        for kind in ("clear", "black")
    )
    assert all(clear[name]["ate_percent"] != black[name]["ate_percent"] for name in clear)


def test_a_study_of_drives_goes_on_where_it_was(study: tuple[Path, list[str]]) -> None:
    folder, arguments = study
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    scores = folder / "scores" / "no_gcm_0.json"
    conditions = json.loads(scores.read_text())["conditions"]
    scores.unlink()
    assert main(arguments) == 0
    assert json.loads(scores.read_text())["conditions"] == conditions
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")} == before
    with pytest.raises(UserError, match="was made from another index or with other settings"):
        main([*arguments, "drives.seed=5"])


def test_black_pictures_give_finite_gradients() -> None:
    """A chunk without any light aligns nothing; that must not spoil the others."""
    torch.manual_seed(0)
    network = load_training_recipe(RECIPES / "circuits_full.yaml").model.network
    assert network is not None
    small = {"hidden_size": 16, "num_heads": 2, "direct_channels": 4, "camera_heads": 2}
    model = Scal3RModel(Scal3RConfig(**network.model_dump() | small))
    images = torch.rand(1, 2, 4, 3, 24, 48)
    images[0, 1] = 0
    output = model(images)
    assert isinstance(output.pose_encoding, torch.Tensor)
    output.pose_encoding.square().sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
