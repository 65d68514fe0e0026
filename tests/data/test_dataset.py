"""From a step to this rank's chunks: the pixels, depths and cameras of the frames that the plan names."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.data.augmentation import AugmentationSettings
from scal3r_train.data.dataset import FailedBatch, StepDataset, chunk_frames, short_names, step_loader
from scal3r_train.data.index.index import SequenceIndex, load_index, write_index
from scal3r_train.data.io.frame_io import read_frames
from scal3r_train.data.sampling.curriculum import CurriculumSettings, Resolution
from scal3r_train.data.sampling.plan import RankPlan, Source, plan_step
from scal3r_train.data.sampling.sources import DataSettings, SourceSettings, open_sources
from scal3r_train.data.sequence import SequenceBatch
from scal3r_train.model.chunk_batch import reference_index

CURRICULUM = CurriculumSettings(
    group_size={2: 1.0},
    sequences_per_group=2,
    chunks_per_rank={2: 1.0},
    chunk_size={4: 1.0},
    overlap={1: 1.0},
    resolution=(Resolution(height=28, width=42),),
)
FIELDS = ("images", "depth", "extrinsics", "intrinsics", "chunk_mask")


def plan_of_rank(
    curriculum: CurriculumSettings, sources: list[Source], world_size: int, rank: int, step: int
) -> RankPlan:
    return plan_step(curriculum, sources, 0, step, world_size).for_rank(rank)


def dataset_of(
    index: Path, world_size: int, rank: int, jitter: float = 0.0, curriculum: CurriculumSettings = CURRICULUM
) -> StepDataset:
    augmentation = AugmentationSettings(colour_jitter=jitter)
    settings = DataSettings(sources=(SourceSettings(index=str(index)),), augmentation=augmentation)
    indexes, sources = open_sources(settings)
    return StepDataset(indexes, partial(plan_of_rank, curriculum, sources, world_size, rank), settings)


def batch_of(dataset: StepDataset, step: int) -> SequenceBatch:
    batch = dataset[step]
    assert isinstance(batch, SequenceBatch), batch
    return batch


def assert_same(batch: SequenceBatch, expected: SequenceBatch) -> None:
    for name in FIELDS:
        assert torch.equal(getattr(batch, name), getattr(expected, name)), name
    assert batch.sequence_ids == expected.sequence_ids


@pytest.fixture(scope="module")
def short_towns(towns: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The towns cut to 9 frames: a window of 4 chunks has room for two."""
    index = load_index(towns)
    path = tmp_path_factory.mktemp("short") / "index.parquet"
    write_index(path, [cut(index, row, 9) for row in range(len(index))])
    return path


def cut(index: SequenceIndex, row: int, num_frames: int):
    record = index[row]
    names = ("image", "image_size", "timestamp", "depth", "intrinsics", "distortion", "cam_from_world")
    values = {name: getattr(record, name) for name in names}
    return replace(record, **{name: None if v is None else v[:num_frames] for name, v in values.items()})


def test_batch_holds_the_planned_frames(towns: Path) -> None:
    dataset = dataset_of(towns, world_size=2, rank=1)
    plan, batch = dataset.plan_of_step(3), batch_of(dataset, 3)
    assert batch.images.shape == (2, 2, 4, 3, 28, 42)
    for b, window in enumerate(plan.group.windows):
        record = dataset.indexes[0][window.row]
        assert batch.sequence_ids[b] == record.sequence_id
        for k, chunk in enumerate(plan.chunks):
            frames = plan.chunk_frames(window, chunk)
            assert frames is not None
            direct = read_frames(record, frames, (28, 42))
            assert torch.equal(batch.float_images()[b, k], direct.images)
            assert torch.equal(batch.depth[b, k], direct.depth)
            assert torch.equal(batch.intrinsics[b, k], direct.intrinsics.float())
            check_relative_poses(batch.extrinsics[b, k], record.cam_from_world[frames])


def check_relative_poses(extrinsics: Tensor, cam_from_world: np.ndarray) -> None:
    """cam_from_chunk by 4 x 4 matrices: cam_from_world times the inverse of the middle frame's."""
    bottom = np.tile([0.0, 0.0, 0.0, 1.0], (len(cam_from_world), 1, 1))
    full = np.concatenate([cam_from_world, bottom], axis=1)
    middle = (len(full) + 1) // 2 - 1
    assert middle == reference_index(len(full))
    expected = full @ np.linalg.inv(full[middle])
    np.testing.assert_allclose(extrinsics.numpy(), expected[:, :3], atol=1e-5)
    np.testing.assert_allclose(extrinsics[middle].numpy(), np.eye(4)[:3], atol=1e-6)


def test_ranks_together_hold_what_one_rank_would(towns: Path) -> None:
    one_rank = CURRICULUM.model_copy(update={"group_size": {1: 1.0}, "chunks_per_rank": {4: 1.0}})
    whole = batch_of(dataset_of(towns, 1, 0, curriculum=one_rank), 5)
    parts = [batch_of(dataset_of(towns, 2, rank), 5) for rank in (0, 1)]
    assert parts[0].sequence_ids == parts[1].sequence_ids == whole.sequence_ids
    for name in FIELDS:
        joined = torch.cat([getattr(part, name) for part in parts], dim=1)
        assert torch.equal(joined, getattr(whole, name)), name


def test_padding_is_masked_and_harmless(short_towns: Path) -> None:
    first, second = (batch_of(dataset_of(short_towns, 2, rank), 0) for rank in (0, 1))
    assert first.chunk_mask.all() and not second.chunk_mask.any()
    assert second.images.shape == first.images.shape
    assert second.sequence_ids == first.sequence_ids
    for name in ("images", "depth"):
        assert (getattr(second, name) == 0).all()
    assert torch.equal(second.extrinsics, torch.eye(4)[:3].expand(second.extrinsics.shape))
    assert (torch.linalg.det(second.intrinsics) == 1).all()


def test_reading_processes_give_the_same_batches(towns: Path) -> None:
    dataset = dataset_of(towns, 2, 0, jitter=0.2)
    for step, batch in zip(range(2, 5), step_loader(dataset, range(2, 5), num_workers=1), strict=True):
        assert isinstance(batch, SequenceBatch)
        assert_same(batch, batch_of(dataset, step))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_a_gpu_will_copy_is_pinned(
    towns: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    """Through torch's own loader, which believes in a GPU; every tensor of a batch, by a copy that is told apart."""
    pinned: set[int] = set()

    def pin_memory(tensor: Tensor) -> Tensor:
        copy = tensor.clone()
        pinned.add(copy.data_ptr())
        return copy

    monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda index: None)
    dataset = dataset_of(towns, 2, 0)
    batches = list(step_loader(dataset, range(2), num_workers=num_workers))
    for step, batch in enumerate(batches):
        assert isinstance(batch, SequenceBatch)
        assert all(getattr(batch, name).data_ptr() in pinned for name in FIELDS)
        assert_same(batch, batch_of(dataset, step))
    assert len(pinned) == len(batches) * len(FIELDS)


def test_a_copy_to_a_device_does_not_wait(towns: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def to(tensor: Tensor, device: str, *, non_blocking: bool) -> Tensor:
        asked.append(non_blocking)
        return tensor.clone()

    batch = batch_of(dataset_of(towns, 2, 0), 0)
    monkeypatch.setattr(Tensor, "to", to)
    assert_same(batch.to("cuda", non_blocking=True), batch)
    assert asked == [True] * len(FIELDS)


def test_colour_jitter_is_one_change_per_window(towns: Path) -> None:
    """All ranks that share a window see the same colours; another window sees others; geometry stays."""
    plain = [batch_of(dataset_of(towns, 2, rank), 1) for rank in (0, 1)]
    jittered = [batch_of(dataset_of(towns, 2, rank, jitter=0.3), 1) for rank in (0, 1)]
    maps = {}
    for rank in (0, 1):
        assert torch.equal(plain[rank].depth, jittered[rank].depth)
        for b in (0, 1):
            maps[rank, b] = fit_affine(plain[rank].float_images()[b], jittered[rank].float_images()[b])
    np.testing.assert_allclose(maps[0, 0], maps[1, 0], atol=0.01)
    np.testing.assert_allclose(maps[0, 1], maps[1, 1], atol=0.01)
    assert np.abs(maps[0, 0] - maps[0, 1]).max() > 0.05
    assert np.abs(maps[0, 0] - np.eye(4)[:3]).max() > 0.05


def fit_affine(before: Tensor, after: Tensor) -> np.ndarray:
    """M and t [3, 4] that turned colours [K, S, 3, H, W] into others, from pixels that were not clipped."""
    x, y = (images.movedim(2, -1).reshape(-1, 3).double().numpy() for images in (before, after))
    inside = ((y > 0.01) & (y < 0.99)).all(1)
    x = np.column_stack([x, np.ones(len(x))])
    return np.linalg.lstsq(x[inside], y[inside], rcond=None)[0].T


def test_a_truncated_image_becomes_a_failed_batch_that_names_it(towns: Path, tmp_path: Path) -> None:
    index = load_index(towns)
    record = index[0]
    broken = tmp_path / "broken.png"
    whole = (record.root / record.image[2]).read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    write_index(tmp_path / "index.parquet", [replace(record, image=(str(broken),) * record.num_frames)])
    batch = dataset_of(tmp_path / "index.parquet", 2, 0)[0]
    assert isinstance(batch, FailedBatch)
    assert "broken.png" in batch.message and "cannot be read" in batch.message


def without_poses(record):
    return replace(record, cam_from_world=None)


def without_intrinsics(record):
    return replace(record, intrinsics=None, camera_model="", distortion=None)


@pytest.mark.parametrize(("change", "what"), [(without_poses, "poses"), (without_intrinsics, "intrinsics")])
def test_sources_that_cannot_train_are_refused(
    towns: Path, tmp_path: Path, change: Callable, what: str
) -> None:
    write_index(tmp_path / "index.parquet", [change(load_index(towns)[0])])
    with pytest.raises(UserError, match=f"'town_001_00000' has no {what}"):
        dataset_of(tmp_path / "index.parquet", 1, 0)


def test_later_sequences_are_checked_too(towns: Path, tmp_path: Path) -> None:
    index = load_index(towns)
    write_index(tmp_path / "index.parquet", [index[0], without_poses(index[1])])
    with pytest.raises(UserError, match="'town_001_00001' has no poses"):
        dataset_of(tmp_path / "index.parquet", 1, 0)


def test_an_empty_or_missing_index_is_refused(tmp_path: Path) -> None:
    write_index(tmp_path / "index.parquet", [])
    with pytest.raises(UserError, match="has no sequences"):
        dataset_of(tmp_path / "index.parquet", 1, 0)
    with pytest.raises(UserError, match=r"absent\.parquet does not exist"):
        dataset_of(tmp_path / "absent.parquet", 1, 0)


def test_unordered_windows_walk_through_what_is_seen_together(towns: Path, tmp_path: Path) -> None:
    """Every frame is covisible with one of the window; a start that sees nothing gives way to the next that does."""
    record = load_index(towns)[0]
    evens = np.array(
        [[(i + step) % 20 for step in (2, -2, 4)] if i % 2 == 0 else [-1] * 3 for i in range(20)]
    )
    write_index(tmp_path / "i.parquet", [replace(record, is_ordered=False, covisible=evens)])
    dataset = dataset_of(tmp_path / "i.parquet", 1, 0)
    starts = set()
    for step in range(12):
        plan = dataset.plan_of_step(step)
        for window in plan.group.windows:
            starts.add(window.start % 2)
            frames = [
                frame for chunk in chunk_frames(dataset.indexes[0][0], plan, window) for frame in chunk or []
            ]
            assert all(frame % 2 == 0 for frame in frames)
            assert len(set(frames)) > 1
        assert isinstance(dataset[step], SequenceBatch)
    assert starts == {0, 1}
    write_index(
        tmp_path / "none.parquet", [replace(record, is_ordered=False, covisible=np.full((20, 2), -1))]
    )
    batch = dataset_of(tmp_path / "none.parquet", 1, 0)[0]
    assert isinstance(batch, FailedBatch)
    assert "no two frames see the same" in batch.message


def test_names_of_sources_are_short_and_unique() -> None:
    names = short_names(
        ["a/towns/index.parquet", "hf://datasets/me/rooms/index.parquet", "x/b.parquet", "y/b.parquet"]
    )
    assert names == ["towns", "rooms", "b_1", "b_2"]
