"""Frames chosen by number and by time, and where times come from."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from scal3r_train.config import UserError
from scal3r_train.inference.input.settings import InputSettings, nearest_at_rate
from tests.inference.input.test_video import choose, put


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(10):
        put(images / f"{number}.png", 14, 28)
    return images


def times_file(folder: Path, text: str) -> Path:
    path = folder.parent / "times.txt"
    path.write_text(text)
    return path


def test_the_nearest_frame_of_each_time_is_taken() -> None:
    """Against the definition: for each time the nearest frame, found by brute force."""
    random = np.random.default_rng(0)
    for _ in range(200):
        times = np.cumsum(random.uniform(0.01, 0.2, random.integers(1, 40)))
        indices = np.flatnonzero(random.random(len(times)) < 0.8)
        if not len(indices):
            continue
        fps = float(random.uniform(1, 60))
        wanted, expected = times[indices[0]], set()
        number = 0
        while (at := wanted + number / fps) <= times[indices[-1]] + 1e-9:
            expected.add(int(indices[np.abs(times[indices] - at).argmin()]))
            number += 1
        assert nearest_at_rate(indices, times, fps) == sorted(expected)


def test_halving_the_rate_and_asking_for_more_than_there_is() -> None:
    times = 1e9 + np.arange(10) / 30
    assert nearest_at_rate(np.arange(10), times, 15) == [0, 2, 4, 6, 8]
    assert nearest_at_rate(np.arange(10), times, 30) == list(range(10))
    assert nearest_at_rate(np.arange(10), times, 240) == list(range(10))
    assert nearest_at_rate(np.arange(1), times, 5) == [0]


def test_ranges_by_time_count_from_the_first_frame(folder: Path) -> None:
    times = times_file(folder, "\n".join(f"{1311868164.25 + 0.5 * n}" for n in range(10)))
    video = choose(folder, timestamps=times, start_s=1, stop_s=4)
    assert video.frame_indices == (2, 3, 4, 5, 6, 7)
    assert video.timestamps[0] == 1311868165.25
    assert choose(folder, timestamps=times, start=3, stop_s=4, stride=2).frame_indices == (3, 5, 7)
    assert choose(folder, timestamps=times, fps=1, max_frames=3).frame_indices == (0, 2, 4)
    with pytest.raises(UserError, match=r"no frame lies between input\.start_s = 9 .* lasts 4\.500 s"):
        choose(folder, timestamps=times, start_s=9)


def test_a_table_of_names_in_any_order_and_comments(folder: Path) -> None:
    lines = [f"{10 + n / 4} rgb/{n}.png" for n in range(11)][::-1]
    video = choose(folder, timestamps=times_file(folder, "# timestamp filename\n" + "\n".join(lines)))
    assert video.timestamps.tolist() == [10 + n / 4 for n in range(10)]
    table = "#timestamp [s],filename\n" + "\n".join(f"{n / 4},{n}.png" for n in range(10))
    assert choose(folder, timestamps=times_file(folder, table)).timestamps[3] == 0.75


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1\n2\n", "has 2 times for 10 images"),
        ("\n".join(f"{n} {n}.png" for n in range(9)), r"no time for 1 of 10 images, 9\.png"),
        (
            "\n".join("0 1 2 3 3 5 6 7 8 9".split()),
            r"times must increase, but 4\.png \(3 s\) comes after 3\.png",
        ),
        ("\n".join(f"{n}" for n in [1, 2, 3, 4, 5, 6, "x", 8, 9, 10]), r"times\.txt:7: 'x' is no time"),
        ("\n".join(f"{1403636579763555584 + n * 10**8}" for n in range(10)), "no time in seconds"),
        ("# nothing\n", "holds no times"),
    ],
)
def test_times_that_do_not_fit_are_one_line(folder: Path, text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as error:
        choose(folder, timestamps=times_file(folder, text))
    assert "\n" not in str(error.value)


def test_rates_need_times(folder: Path) -> None:
    with pytest.raises(UserError, match="does not have; give input.timestamps"):
        choose(folder, fps=2)
    with pytest.raises(UserError, match="cannot be read"):
        choose(folder, timestamps=folder / "nowhere.txt")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"fps": 5, "stride": 2}, "exclude each other"),
        ({"start_s": 3, "stop_s": 2}, "must be greater than start_s"),
        ({"invert_masks": True}, "give that folder too"),
        ({"cache_gib": 0}, "greater than 0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        InputSettings.model_validate(settings)


def test_times_from_names(tmp_path: Path) -> None:
    for second in (100.0, 100.25, 100.5, 101.0):
        put(tmp_path / f"{second:.6f}.png", 14, 28)
    assert choose(tmp_path, fps=2).frame_indices == (0, 2, 3)
