"""Zoom moves intrinsics with pixels; colours change by one affine map, per window or per frame."""

import numpy as np
import pytest

from scal3r_train.data.augmentation import AugmentationSettings, WindowLook
from scal3r_train.data.camera.resize import ResizeAndCrop

IMAGE = np.random.default_rng(0).integers(60, 196, (20, 30, 3)).astype(np.uint8)


def look(seed: int = 1, **settings: float) -> WindowLook:
    return WindowLook.draw(AugmentationSettings(**settings), seed)


def test_defaults_change_nothing() -> None:
    assert look().zoom == 1
    assert look().coloured(IMAGE, 3) is IMAGE


def test_one_change_for_all_frames_of_a_window_or_one_each() -> None:
    shared = look(colour_jitter=0.3)
    assert (shared.coloured(IMAGE, 0) == shared.coloured(IMAGE, 7)).all()
    assert (shared.coloured(IMAGE, 0) != IMAGE).any()
    each = look(colour_jitter=0.3, per_frame_probability=1.0)
    assert (each.coloured(IMAGE, 0) != each.coloured(IMAGE, 7)).any()
    assert (
        each.coloured(IMAGE, 7) == look(colour_jitter=0.3, per_frame_probability=1.0).coloured(IMAGE, 7)
    ).all()


def test_grey_windows_have_no_colour() -> None:
    grey = look(grey_probability=1.0).coloured(IMAGE, 0).astype(int)
    assert np.abs(grey - grey[..., :1]).max() <= 1
    luma = IMAGE @ [0.299, 0.587, 0.114]
    assert np.abs(grey[..., 0] - luma).max() <= 1


def test_jitter_stays_within_its_strength() -> None:
    grey = np.full((4, 4, 3), 128, np.uint8)  # saturation and contrast leave the middle alone
    values = [look(seed, colour_jitter=0.2).coloured(grey, 0)[0, 0].astype(float) for seed in range(200)]
    shift = (np.array(values) - 128) / 255
    assert 0.08 < np.abs(shift).max() <= 0.5 * 0.2 + 0.005


def test_zooms_fill_their_range() -> None:
    zooms = [look(seed, max_zoom=1.5).zoom for seed in range(200)]
    assert 1 <= min(zooms) < 1.02
    assert 1.48 < max(zooms) <= 1.5


@pytest.mark.parametrize("zoom", [1.0, 1.37])
def test_a_spot_moves_with_the_intrinsics(zoom: float) -> None:
    """A bright spot at the principal point is found where the moved principal point is, at the target's centre."""
    centre, hw, target = (97.3, 61.9), (120, 200), (42, 56)
    columns, rows = np.meshgrid(np.arange(hw[1]) + 0.5, np.arange(hw[0]) + 0.5)
    spot = np.exp(-((columns - centre[0]) ** 2 + (rows - centre[1]) ** 2) / (2 * 5.0**2))
    image = np.repeat((255 * spot + 0.5).astype(np.uint8)[..., None], 3, -1)
    cover = ResizeAndCrop.around(hw, target, centre, zoom)
    after = cover.image_fast(image)[..., 0].astype(float)
    columns, rows = np.meshgrid(np.arange(target[1]) + 0.5, np.arange(target[0]) + 0.5)
    found = (after * columns).sum() / after.sum(), (after * rows).sum() / after.sum()
    moved = cover.moved(np.array([150.0, 160.0, *centre]))
    assert found == pytest.approx(moved[2:], abs=0.05)
    if zoom > 1:  # without zoom the image may not reach that far
        assert moved[2:] == pytest.approx([28, 21], abs=0.51)
    scale = max(target[0] / hw[0], target[1] / hw[1]) * zoom
    assert moved[:2] == pytest.approx([150 * scale, 160 * scale], rel=0.02)


def test_a_crop_never_leaves_the_image() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        hw, target = tuple(rng.integers(10, 80, 2)), tuple(rng.integers(5, 60, 2))
        cover = ResizeAndCrop.around(hw, target, tuple(rng.uniform(-5, 85, 2)), rng.uniform(1, 2))
        assert 0 <= cover.top <= cover.resized_hw[0] - target[0]
        assert 0 <= cover.left <= cover.resized_hw[1] - target[1]
