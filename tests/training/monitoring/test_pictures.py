"""Pictures of a validation: what they show, where they go, and that the training does not notice."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from scal3r_train.model.modeling_scal3r import Scal3ROutput
from scal3r_train.training.monitoring.pictures import (
    FRAME_WIDTH,
    LABEL,
    MARGIN,
    PREDICTED_COLOUR,
    TRUE_COLOUR,
    UNKNOWN,
    ChunkView,
    WindowPictures,
    chunk_view,
    picture,
)
from scal3r_train.training.monitoring.sinks import PictureFiles
from tests.training import tiny
from tests.training.test_resume import assert_equal_states, newest
from tests.training.test_validation import batch_of_truth, perfect

OneProcess = Callable[..., Path]


def view_of_truth() -> ChunkView:
    """A perfect prediction but for its unit."""
    batch = batch_of_truth(2)
    return chunk_view(perfect(batch), batch, 0, 1)


def count(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((image == colour).all(-1).sum())


def row(image: np.ndarray, number: int) -> np.ndarray:
    """Return the pixels of the tiles of a row: 0 input, 1 true depth, 2 predicted depth."""
    height = round(FRAME_WIDTH * 28 / 42)
    top = MARGIN + number * (height + LABEL + MARGIN) + LABEL
    return image[top : top + height, MARGIN : MARGIN + FRAME_WIDTH].astype(int)


def test_a_perfect_prediction_looks_like_the_truth() -> None:
    view = view_of_truth()
    assert view.depth is not None
    image = picture(view)
    assert image.dtype == np.uint8 and image.ndim == 3 and max(image.shape) < 1300
    assert np.abs(row(image, 1) - row(image, 2)).max() <= 1
    assert np.abs(row(image, 0) - row(image, 1)).max() > 50
    assert count(image, PREDICTED_COLOUR) > 100, "the path of the prediction lies on the true one"
    wrong = picture(dataclasses.replace(view, depth=view.depth[:, ::-1] + 0.01))
    assert np.abs(row(wrong, 1) - row(wrong, 2)).max() > 50


def test_paths_are_brought_to_one_size_and_not_turned() -> None:
    view = view_of_truth()
    assert view.extrinsics is not None
    smaller = view.extrinsics.copy()
    smaller[..., 3] /= 7
    aside = smaller.copy()
    aside[..., [0, 2], 3] = smaller[..., [2, 0], 3]
    on_it, off_it = (picture(dataclasses.replace(view, extrinsics=path)) for path in (smaller, aside))
    hidden = count(picture(dataclasses.replace(view, extrinsics=None)), TRUE_COLOUR)
    assert count(on_it, TRUE_COLOUR) < 0.2 * hidden
    assert count(off_it, TRUE_COLOUR) > 0.5 * hidden


def test_what_is_missing_or_broken_is_drawn_too() -> None:
    view = view_of_truth()
    assert view.extrinsics is not None and view.depth is not None
    nothing = np.zeros_like(view.true_depth)
    still = view.true_extrinsics.copy()
    still[..., 3] = 0
    for change in (
        {"extrinsics": view.extrinsics * np.nan, "depth": view.depth * np.nan},
        {"extrinsics": None, "depth": None},
        {"true_depth": nothing, "depth": nothing},
        {"true_depth": nothing},
        {"true_extrinsics": still, "extrinsics": still},
    ):
        assert picture(dataclasses.replace(view, **change)).ndim == 3
    assert count(picture(dataclasses.replace(view, true_depth=nothing)), UNKNOWN) >= 4 * FRAME_WIDTH * 100


def test_the_first_real_chunk_of_the_first_windows() -> None:
    batch = batch_of_truth(3)
    batch.chunk_mask[0, 0] = False
    drawn = WindowPictures(2)
    for window in range(4):
        drawn.look(window, perfect(batch), batch)
    assert set(drawn.take()) == {"window_0", "window_1"}
    assert drawn.take() == {}
    batch.chunk_mask[:] = False
    drawn.look(0, perfect(batch), batch)
    assert drawn.take() == {}
    none_predicted = chunk_view(Scal3ROutput(), batch, 0, 0)
    assert none_predicted.depth is None and none_predicted.extrinsics is None


def test_many_frames_are_few_in_the_picture() -> None:
    view = view_of_truth()
    many = {name: np.repeat(value, 50, axis=0) for name, value in vars(view).items()}
    assert picture(ChunkView(**many)).shape == picture(view).shape


def test_the_training_does_not_notice(one_process: OneProcess, towns: Path, tmp_path: Path) -> None:
    """Not even its generators: they are part of a checkpoint."""
    changes = {"telemetry.pictures": 2, "validation.num_windows": 3}
    tiny.train(tiny.recipe(towns, tmp_path, changes))
    plain = one_process({"validation.num_windows": 3})
    names = [f"step_{step:08d}_window_{window}.png" for step in (0, 3, 5) for window in (0, 1)]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == names
    assert np.asarray(Image.open(tmp_path / "pictures" / names[0])).shape[-1] == 3
    assert not (plain / "pictures").exists()
    assert tiny.metrics(tmp_path) == tiny.metrics(plain)
    assert_equal_states(tiny.saved_state(newest(tmp_path)), tiny.saved_state(newest(plain)))


def test_a_full_disk_ends_no_run(tmp_path: Path) -> None:
    (tmp_path / "pictures").write_text("in the way")
    said: list[str] = []
    PictureFiles(tmp_path, said.append).show(3, {"window_0": np.zeros((4, 4, 3), np.uint8)})
    assert len(said) == 1 and said[0].startswith("pictures cannot be written: ")
