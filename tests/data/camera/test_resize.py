"""Sizes, crops and where pixels go."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scal3r_train.data.camera.resize import PixelMap, ResizeAndCrop, ResizeRule, half_pixel_intrinsics
from scal3r_train.geometry.camera import intrinsics_matrices, project


@pytest.mark.parametrize(
    ("kind", "first_hw", "expected"),
    [
        # the three examples of docs/numerics.md#preprocessing
        ("width", (1080, 1920), (280, 518)),
        ("width", (480, 640), (378, 518)),
        ("width", (1920, 1080), (910, 518)),
        # ours limits the longer side: a portrait photo costs what the landscape one does
        ("long_side", (1080, 1920), (280, 518)),
        ("long_side", (1920, 1080), (518, 280)),
        ("long_side", (10, 4000), (14, 518)),
    ],
)
def test_target_sizes(kind: str, first_hw: tuple[int, int], expected: tuple[int, int]) -> None:
    assert ResizeRule(kind=kind, size=518).target_hw(first_hw) == expected


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.sampled_from([1, 14]),
)
def test_the_crop_lies_inside_the_cover(
    input_hw: tuple[int, int], target_units: tuple[int, int], multiple: int
) -> None:
    target = target_units[0] * multiple, target_units[1] * multiple
    cover = ResizeAndCrop.plan(input_hw, target, multiple)
    for side in (0, 1):
        start = (cover.top, cover.left)[side]
        assert 0 <= start <= cover.resized_hw[side] - target[side]
        assert abs(cover.resized_hw[side] - target[side] - 2 * start) <= 1  # centred
    assert cover.image(np.zeros((*input_hw, 3), np.uint8)).shape == (*target, 3)
    assert cover.depth(np.zeros(input_hw, np.float32)).shape == target


def test_a_point_stays_on_its_picture_content() -> None:
    """A bright spot at a known sub-pixel place moves to where the intrinsics, moved along, project its ray."""
    height, width, target = 120, 200, (42, 56)
    point = torch.tensor([[0.31, -0.12, 2.0]], dtype=torch.float64)
    before = intrinsics_matrices(half_pixel_intrinsics(np.array([[150.0, 160.0, 97.3, 61.9]]), "half"))
    x, y = project(point, before)[0, 0].tolist()
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    spot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 6.0**2))
    image = np.repeat((255 * spot + 0.5).astype(np.uint8)[..., None], 3, -1)
    cover = ResizeAndCrop.plan((height, width), target)
    after = cover.image(image)[..., 0].astype(float)
    columns, rows = np.meshgrid(np.arange(target[1]) + 0.5, np.arange(target[0]) + 0.5)
    found = (after * columns).sum() / after.sum(), (after * rows).sum() / after.sum()
    pixel_map = cover.pixel_map()
    expected = project(point, pixel_map.processed_intrinsics(before))[0, 0]
    assert found == pytest.approx(expected.tolist(), abs=0.02)
    # the same half a pixel off would be noticed
    assert abs(found[0] - (x + 0.5) * target[1] / width) > 0.05


def test_intrinsics_there_and_back() -> None:
    maps = [ResizeAndCrop.plan(hw, (42, 56), 14).pixel_map() for hw in ((61, 87), (75, 64))]
    pixel_map = PixelMap.stack(maps)
    given = intrinsics_matrices(
        half_pixel_intrinsics(np.array([[50.0, 51, 43, 30], [60, 61, 32, 37]]), "half")
    )
    processed = pixel_map.processed_intrinsics(given)
    torch.testing.assert_close(pixel_map.input_intrinsics(processed), given)
    point = torch.tensor([[0.2, 0.1, 1.0]], dtype=torch.float64)
    moved = project(point, given)[:, 0] * pixel_map.scale + pixel_map.offset
    torch.testing.assert_close(project(point, processed)[:, 0], moved)
    assert pixel_map.input_hw.tolist() == [[61, 87], [75, 64]]


def test_pixel_centre_conventions() -> None:
    """The same camera written in both conventions gives the same matrix."""
    half = intrinsics_matrices(half_pixel_intrinsics(np.array([[100.0, 100, 50, 40]]), "half"))
    integer = intrinsics_matrices(half_pixel_intrinsics(np.array([[100.0, 100, 49.5, 39.5]]), "integer"))
    assert torch.equal(half, integer)
    with pytest.raises(KeyError):
        half_pixel_intrinsics(np.array([[100.0, 100, 50, 40]]), "corner")


def test_depth_is_picked_and_never_mixed() -> None:
    depth = np.random.default_rng(0).choice([1.0, 50.0], (33, 47)).astype(np.float32)
    cover = ResizeAndCrop.plan((66, 94), (28, 42))
    resized = cover.depth(depth)
    assert set(np.unique(resized)) == {1.0, 50.0}
    # slow reference: the depth pixel that holds the centre of each target pixel
    for row, column in ((0, 0), (13, 20), (27, 41)):
        y = (row + cover.top + 0.5) / cover.resized_hw[0] * 33
        x = (column + cover.left + 0.5) / cover.resized_hw[1] * 47
        assert resized[row, column] == depth[int(y), int(x)]


def test_images_of_the_right_size_are_untouched() -> None:
    image = np.random.default_rng(0).integers(0, 256, (28, 42, 3)).astype(np.uint8)
    cover = ResizeAndCrop.plan((28, 42), (28, 42))
    assert (cover.image(image) == image).all()
    assert torch.equal(cover.pixel_map().scale, torch.ones(1, 2, dtype=torch.float64))
