"""The command: whole or not at all, nothing replaced by chance, mistakes told in one line."""

import argparse
import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scal3r_train import cli
from scal3r_train.cli.scene_commands import EXPORT_FORMATS
from scal3r_train.scene import ply
from scal3r_train.scene.export.export_scene import FORMATS
from tests.scene.export.scenes import make_scene

FOLDERS = ("colmap", "nerfstudio")


def refusal(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """What the command says in its one line when it leaves with code 2."""
    capsys.readouterr()
    try:
        code = cli.main(["export", *map(str, arguments)])
    except SystemExit as left:
        code = left.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert captured.err.startswith("scal3r: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Let the operating system refuse to write more than this into any file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_command_knows_all_formats() -> None:
    assert tuple(FORMATS) == EXPORT_FORMATS


@pytest.mark.parametrize("form", FORMATS)
def test_an_output_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture, form: str
) -> None:
    scene = make_scene(tmp_path / "scene", root=tmp_path / "photos")
    with largest_file(300):
        told = refusal(capsys, scene, tmp_path / "new" / "o", "--to", form)
    assert f"{tmp_path / 'new'}" in told and "written: File too large; make room and run again" in told
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("form", FORMATS)
def test_an_earlier_export_survives_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture, form: str
) -> None:
    scene = make_scene(tmp_path / "scene", root=tmp_path / "photos")
    output = tmp_path / "new" / "o"
    assert cli.main(["export", str(scene), str(output), "--to", form]) == 0
    files = [output] if output.is_file() else sorted(path for path in output.rglob("*") if path.is_file())
    before = [file.read_bytes() for file in files]
    with largest_file(300):
        refusal(capsys, scene, output, "--to", form, "--overwrite")
    assert [file.read_bytes() for file in files] == before
    assert [path.name for path in output.parent.iterdir()] == ["o"]


def test_a_full_disk_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_writer: object, _vertices: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    scene = make_scene(tmp_path / "scene")
    monkeypatch.setattr(ply.PlyWriter, "append", full)
    for form in ("ply", "nerfstudio"):
        told = refusal(capsys, scene, tmp_path / "o", "--to", form)
        assert "o cannot be written: No space left on device; make room" in told
    assert [path.name for path in tmp_path.iterdir()] == ["scene"]


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_is_replaced_without_being_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture, form: str
) -> None:
    scene, output = make_scene(tmp_path / "scene", root=tmp_path / "photos"), tmp_path / "o"
    command = ["export", str(scene), str(output), "--to", form]
    assert cli.main(command) == 0
    assert "add --overwrite" in refusal(capsys, *command[1:])
    assert cli.main([*command, "--overwrite"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o", "photos", "scene"]


@pytest.mark.parametrize("form", FOLDERS)
@pytest.mark.parametrize("where", ["notes.txt", "images/mine.jpg"])
def test_a_folder_with_other_things_is_never_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture, form: str, where: str
) -> None:
    scene, output = make_scene(tmp_path / "scene", root=tmp_path / "photos"), tmp_path / "o"
    command = ["export", str(scene), str(output), "--to", form, "--write-images"]
    assert cli.main(command) == 0
    (output / where).write_text("dear to me")
    assert "holds other things" in refusal(capsys, *command[1:], "--overwrite")
    (output / where).unlink()
    assert cli.main([*command, "--overwrite"]) == 0


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    assert (
        cli.main(["export", str(make_scene(tmp_path / "scene")), str(tmp_path / "o"), "--to", "colmap"]) == 0
    )


def test_file_and_folder_are_not_confused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    scene = make_scene(tmp_path / "scene")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    assert "is a folder, this format makes a file" in refusal(
        capsys, scene, tmp_path / "folder", "--to", "ply"
    )
    assert "is a file, this format makes a folder" in refusal(
        capsys, scene, tmp_path / "file", "--to", "colmap", "--overwrite"
    )
    assert "cannot be made or written: Not a directory" in refusal(
        capsys, scene, tmp_path / "file/x", "--to", "colmap"
    )


@pytest.mark.parametrize("name", [".", "points.ply", "new/model"])
def test_the_scene_itself_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture, name: str) -> None:
    scene = make_scene(tmp_path / "scene")
    told = refusal(capsys, scene, scene / name, "--to", "ply", "--overwrite")
    assert "lies in the scene folder" in told


@pytest.mark.parametrize(
    "name", ["scene.json", "frames.jsonl", "trajectory.tum", "intrinsics.txt", "points.ply"]
)
@pytest.mark.parametrize("damage", ["absent", "cut"])
def test_a_damaged_scene(tmp_path: Path, capsys: pytest.CaptureFixture, name: str, damage: str) -> None:
    path = make_scene(tmp_path / "scene") / name
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[: len(content) * 2 // 3])
    assert str(tmp_path / "scene") in refusal(capsys, tmp_path / "scene", tmp_path / "o", "--to", "colmap")
    assert [found.name for found in tmp_path.iterdir()] == ["scene"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("--to obj", "invalid choice: 'obj'"),
        ("", "--to"),
        ("--to ply --voxel-size -1", "voxel_size = -1.0"),
        ("--to ply --voxel-size nan", "voxel_size"),
        ("--to ply --max-points 0", "max_points = 0"),
        ("--to ply --max-points 1.5", "invalid int value"),
        ("--to ply --min-confidence 1 --min-confidence-ratio 1", "not both"),
        ("--to ply --min-confidence 100", "no point of"),
        ("--to tum --voxel-size 1", "--voxel-size has no effect on tum"),
        ("--to glb --write-images", "--write-images has no effect on glb"),
        ("--to nerfstudio --text", "--text has no effect on nerfstudio"),
    ],
)
def test_wrong_options(tmp_path: Path, capsys: pytest.CaptureFixture, options: str, problem: str) -> None:
    scene = make_scene(tmp_path / "scene")
    assert problem in refusal(capsys, scene, tmp_path / "o", *options.split())
    assert [path.name for path in tmp_path.iterdir()] == ["scene"]


def test_no_scene(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert "is no scene folder" in refusal(capsys, tmp_path / "nothing", tmp_path / "o", "--to", "ply")


def test_python_callers_hear_of_unknown_formats(tmp_path: Path) -> None:
    from scal3r_train.config import UserError
    from scal3r_train.scene.export.export_scene import main

    with pytest.raises(UserError, match="no format 'obj'; choose one of colmap"):
        main(tmp_path, tmp_path / "o", "obj", {})


def test_options_are_those_of_the_command() -> None:
    from scal3r_train.scene.export.options import ExportOptions

    commands = next(a for a in cli.build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    flags = {action.dest for action in commands.choices["export"]._actions}
    assert set(ExportOptions.model_fields) == flags - {"help", "scene", "output", "to"}
