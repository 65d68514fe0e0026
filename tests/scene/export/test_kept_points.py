"""Which points an export keeps: the same as the plain rules on the whole cloud, whatever the blocks and buckets."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from scal3r_train.config import UserError
from scal3r_train.scene.export import kept_points as selection
from scal3r_train.scene.export.kept_points import kept_points, select_points
from scal3r_train.scene.export.options import ExportOptions
from scal3r_train.scene.ply import (
    BLOCK_POINTS,
    VERTEX,
    PlyReader,
    as_vertices,
    ply_writer,
    read_ply,
    write_ply,
)
from scal3r_train.scene.point_cloud import PointCloud, thin

NUM_POINTS = 3000


def random_cloud(num_points: int = NUM_POINTS) -> PointCloud:
    """Points with many equal confidences, several in most voxels of edge 0.5."""
    random = np.random.default_rng(0)
    return PointCloud(
        random.uniform(-2, 2, (num_points, 3)).astype(np.float32).astype(np.float64),
        random.integers(0, 256, (num_points, 3), np.uint8),
        random.integers(1, 5, num_points).astype(np.float32),
        np.arange(num_points),
    )


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read 512 points at a time and thinned in 64 buckets."""
    whole = PlyReader.blocks

    def blocks(self: PlyReader) -> Iterator[np.ndarray]:
        return whole(self, 512)

    monkeypatch.setattr(PlyReader, "blocks", blocks)
    monkeypatch.setattr(selection, "POINTS_PER_BUCKET", 50)


def kept(path: Path, **options: float) -> np.ndarray:
    with PlyReader(path) as reader:
        blocks = list(kept_points(reader, ExportOptions.model_validate(options), path.parent))
    return np.concatenate(blocks)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("voxel_size", [None, 0.5, 100.0])
@pytest.mark.parametrize("max_points", [None, 1, 100, NUM_POINTS, 10 * NUM_POINTS])
def test_blocks_keep_what_thin_keeps(
    tmp_path: Path, voxel_size: float | None, max_points: int | None
) -> None:
    cloud = random_cloud()
    write_ply(tmp_path / "p.ply", cloud.positions, cloud.colours, cloud.confidence)
    expected = thin(cloud, voxel_size or 0, max_points or NUM_POINTS)
    options = {"voxel_size": voxel_size, "max_points": max_points}
    vertices = kept(tmp_path / "p.ply", **{name: value for name, value in options.items() if value})
    wanted = as_vertices(expected.positions, expected.colours, expected.confidence)
    np.testing.assert_array_equal(vertices, wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["p.ply"]


@pytest.mark.usefixtures("small_blocks")
def test_confidence_counts_before_voxels(tmp_path: Path) -> None:
    cloud = random_cloud()
    write_ply(tmp_path / "p.ply", cloud.positions, cloud.colours, cloud.confidence)
    # Of the points that are confident enough, the same voxels and the same draw.
    confident = cloud.select(cloud.confidence >= 3)
    expected = thin(confident, 0.5, 100)
    vertices = kept(tmp_path / "p.ply", voxel_size=0.5, max_points=100, min_confidence=3)
    wanted = as_vertices(expected.positions, expected.colours, expected.confidence)
    np.testing.assert_array_equal(vertices, wanted)


@pytest.mark.usefixtures("small_blocks")
def test_thresholds(tmp_path: Path) -> None:
    cloud = random_cloud()
    confidence = (cloud.confidence + 0.1).astype(np.float32)
    write_ply(tmp_path / "p.ply", cloud.positions, cloud.colours, confidence)
    everything = kept(tmp_path / "p.ply")
    assert len(everything) == NUM_POINTS
    # 3.1 itself stays, as float32 has it.
    np.testing.assert_array_equal(kept(tmp_path / "p.ply", min_confidence=3.1), everything[confidence > 3])
    ratio = kept(tmp_path / "p.ply", min_confidence_ratio=1.2)
    np.testing.assert_array_equal(ratio, everything[confidence > 1.2 * confidence.mean(dtype=np.float64)])


def test_order_of_parts_does_not_matter(tmp_path: Path) -> None:
    cloud = random_cloud()
    parts = [cloud.select(np.arange(start, start + 100)) for start in range(0, NUM_POINTS, 100)]
    one = select_points(parts, NUM_POINTS, 0.5, 200, tmp_path)
    other = select_points(parts[::-1], NUM_POINTS, 0.5, 200, tmp_path)
    np.testing.assert_array_equal(one, other)
    assert np.unpackbits(one).sum() == 200


def test_no_point_left_is_said(tmp_path: Path) -> None:
    cloud = random_cloud(10)
    write_ply(tmp_path / "p.ply", cloud.positions, cloud.colours, cloud.confidence)
    with pytest.raises(UserError, match=r"no point of .*p\.ply reaches confidence 99;"):
        kept(tmp_path / "p.ply", min_confidence=99)


def test_points_that_are_not_finite_are_named(tmp_path: Path) -> None:
    cloud = random_cloud(10)
    cloud.positions[3, 1] = np.nan
    write_ply(tmp_path / "p.ply", cloud.positions, cloud.colours, cloud.confidence)
    with pytest.raises(UserError, match="not finite"):
        kept(tmp_path / "p.ply")


def test_blocks_begin_at_whole_bytes() -> None:
    assert BLOCK_POINTS % 8 == 0


@pytest.mark.parametrize("sizes", [[], [0], [3], [3, 0, 5]])
def test_a_writer_of_blocks_counts_them(tmp_path: Path, sizes: list[int]) -> None:
    cloud = random_cloud(8)
    vertices = as_vertices(cloud.positions, cloud.colours, cloud.confidence)
    with ply_writer(tmp_path / "p.ply") as writer:
        start = 0
        for size in sizes:
            writer.append(vertices[start : start + size])
            start += size
    positions, _, _ = read_ply(tmp_path / "p.ply")
    np.testing.assert_array_equal(positions, cloud.positions[: sum(sizes)])


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def write_and_fail() -> None:
        with ply_writer(tmp_path / "p.ply") as writer:
            writer.append(np.zeros(4, VERTEX))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    cloud = random_cloud(100)
    write_ply(tmp_path / "p.ply", cloud.positions, cloud.colours, cloud.confidence)
    with PlyReader(tmp_path / "p.ply") as reader:
        with (tmp_path / "p.ply").open("rb+") as file:
            file.truncate(1000)
        with pytest.raises(UserError, match="damaged"):
            reader.read()


def test_a_replaced_file_is_read_as_it_was(tmp_path: Path) -> None:
    cloud = random_cloud(100)
    write_ply(tmp_path / "p.ply", cloud.positions, cloud.colours, cloud.confidence)
    with PlyReader(tmp_path / "p.ply") as reader:
        write_ply(tmp_path / "p.ply", np.zeros((1, 3)), np.zeros((1, 3), np.uint8), np.zeros(1))
        np.testing.assert_array_equal(reader.read()[0], cloud.positions)
