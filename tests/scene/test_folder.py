"""A folder that is replaced again and again is always there, and read as one of its versions."""

import threading
from pathlib import Path

import pytest

from scal3r_train.config import UserError
from scal3r_train.scene import folder as scene_swap
from scal3r_train.scene.folder import exchange, read_steady, swap_into_place

NUM_VERSIONS = 200


def write(folder: Path, version: int) -> Path:
    folder.mkdir()
    for name in "ab":
        (folder / name).write_text(str(version))
    return folder


def read(folder: Path) -> tuple[str, str]:
    try:
        return (folder / "a").read_text(), (folder / "b").read_text()
    except OSError:
        raise UserError("missing") from None


@pytest.mark.parametrize("can_exchange", [True, False])
def test_the_new_folder_takes_the_place_and_nothing_else_stays(
    can_exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_exchange:
        monkeypatch.setattr(scene_swap, "exchange", lambda _one, _other: False)
    for version in range(3):
        swap_into_place(write(tmp_path / "new", version), tmp_path / "target")
        assert read(tmp_path / "target") == (str(version), str(version))
        assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_readers_see_one_version(tmp_path: Path) -> None:
    one, other = write(tmp_path / "one", 1), write(tmp_path / "other", 2)
    if not exchange(one, other):
        pytest.skip("this file system cannot exchange two names")
    assert (read(one)[0], read(other)[0]) == ("2", "1")
    target = tmp_path / "target"
    swap_into_place(write(tmp_path / "new", 0), target)

    def replace() -> None:
        for version in range(1, NUM_VERSIONS):
            swap_into_place(write(tmp_path / "new", version), target)

    writer = threading.Thread(target=replace)
    writer.start()
    seen = [0]
    while seen[-1] < NUM_VERSIONS - 1 and (writer.is_alive() or seen[-1] < NUM_VERSIONS - 1):
        first, second = read_steady(target, lambda: read(target))
        assert first == second
        seen.append(int(first))
    writer.join()
    assert seen == sorted(seen)


def test_what_stays_damaged_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing"):
        read_steady(tmp_path / "nowhere", lambda: read(tmp_path / "nowhere"))
    (tmp_path / "half").mkdir()
    with pytest.raises(UserError, match="missing"):
        read_steady(tmp_path / "half", lambda: read(tmp_path / "half"))
