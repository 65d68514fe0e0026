"""What the operating system refuses: one line, exit code 2, before the work where that can be, nothing half-written."""

from __future__ import annotations

import errno
import os
import resource
import sys
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scal3r_data_tools import check, index, pack, prepare, preview, synth
from scal3r_data_tools.checking.report import ReportWriter
from scal3r_data_tools.registry import ADAPTERS, Adapter
from scal3r_train import config
from scal3r_train.cli import main as scal3r
from scal3r_train.config import UserError, atomic_output, write_text_atomically, writing
from scal3r_train.model import convert_checkpoint
from scal3r_train.os_errors import is_of_the_machine, told
from scal3r_train.parallel.claimed_output import claimed, remove_leftovers_within
from scal3r_train.parallel.collectives import raise_on_all_ranks
from scal3r_train.parallel.folder_lock import lock_beside
from scal3r_train.scene.export import export_scene
from tests.house.test_one_owner import claim
from tests.scene.export.scenes import make_scene

Line = Callable[..., str]
SYNTH = ["num_sequences=1", "num_frames=2", "height=28", "width=42", "num_workers=1"]
GONE = 1 << 30  # a process number that no process has
WORK = {
    "index": (index, "write_index"),
    "pack": (pack, "_pack"),
    "preview": (preview, "_picture"),
    "check": (check, "_check"),
    "synth": (synth, "_write_all"),
    "prepare": (prepare, "_prepare"),
    "export": (export_scene, "new_output"),
    "convert": (convert_checkpoint, "main"),
}
FILES = ("index", "preview", "export")  # the outputs of the others are folders


@pytest.fixture
def line(capsys: pytest.CaptureFixture[str]) -> Line:
    """Run a command that is refused; return the line that it says."""

    def run(*words: object) -> str:
        capsys.readouterr()
        assert scal3r([str(word) for word in words]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        (said,) = captured.err.splitlines()
        assert said.startswith("scal3r: error: ")
        return said.removeprefix("scal3r: error: ")

    return run


@pytest.fixture
def words(
    towns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, Path], list[object]]:
    """The words of a command that writes an output."""

    def prepared(source: Path, output: Path, options: object) -> None:
        write_text_atomically(output / "depth.png", "x" * 10_000)

    monkeypatch.setitem(ADAPTERS, "prepared", Adapter(index=lambda source: iter(()), prepare=prepared))

    def of(command: str, output: Path) -> list[object]:
        if command == "export":
            scene = tmp_path / "scene"
            return ["export", scene if scene.exists() else make_scene(scene), output, "--to", "ply"]
        return {
            "index": ["data", "index", "towns", towns.parent, output],
            "pack": ["data", "pack", towns, output],
            "preview": ["data", "preview", towns, output, "sequences=1", "frames=1", "cloud_frames=0"],
            "check": ["data", "check", towns, f"report={output}", "max_sequences=1", "num_pairs=3"],
            "synth": ["data", "synth", output, *SYNTH],
            "prepare": ["data", "prepare", "prepared", towns.parent, output],
            "convert": ["convert", towns, output],
        }[command]

    return of


def name_of(command: str) -> str:
    return {"index": "out.parquet", "preview": "out.png", "export": "out.ply"}.get(command, "out")


def names_in(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if "scene" not in path.parts
    )


@pytest.mark.parametrize("command", [name for name in WORK])
@pytest.mark.parametrize("fault", ["file above", "read-only", "other kind"])
def test_an_output_that_cannot_be_is_refused_before_the_work(
    command: str, fault: str, line: Line, words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object, **__: object) -> None:
        pytest.fail("the work has begun")

    module, name = WORK[command]
    if name != "_prepare":
        monkeypatch.setattr(module, name, work)
    else:
        monkeypatch.setitem(ADAPTERS, "prepared", Adapter(index=lambda source: iter(()), prepare=work))
    output = tmp_path / "place" / name_of(command)
    given = words(command, output)
    if fault == "file above":
        output.parent.write_text("mine")
        assert "place cannot be made or written: Not a directory; a file is in the way" in line(*given)
        assert output.parent.read_text() == "mine"
    elif fault == "read-only":
        make = Path.mkdir

        def refuse(path: Path, *arguments: Any, **options: Any) -> None:
            if path.is_relative_to(tmp_path / "place"):
                raise OSError(errno.EROFS, "Read-only file system", str(path))
            make(path, *arguments, **options)

        monkeypatch.setattr(Path, "mkdir", refuse)
        said = line(*given)
        assert (
            "place cannot be made or written: Read-only file system; name a place that is not read-only"
            in said
        )
        assert not output.parent.exists()
    elif command == "pack":  # which never writes where something is
        output.mkdir(parents=True)
        assert "exists already; name a new folder" in line(*given)
    else:
        if command in FILES:
            output.mkdir(parents=True)
        else:
            output.parent.mkdir()
            output.write_text("mine")
        said = line(*given)
        assert f"{output} is a {'folder' if command in FILES else 'file'}" in said or "exists" in said
        assert names_in(tmp_path) == ["place", f"place/{output.name}"]


@contextmanager
def largest_file(num_bytes: int) -> Any:
    """Let writes fail in the kernel, as those to a full disk do."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("command", [name for name in WORK if name != "convert"])
def test_a_disk_that_fills_up_leaves_nothing(
    command: str, line: Line, words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (50, 50, 3)).astype(np.uint8)
    monkeypatch.setattr(preview, "_picture", lambda *_: noise)  # which takes long
    monkeypatch.setattr(
        check, "_check", lambda index, rows, to, path: ReportWriter(to.report).write("x" * 2000, [])
    )
    output = tmp_path / "place" / name_of(command)
    given = words(command, output)
    with largest_file(1500):  # more than a lock needs, less than any output
        said = line(*given)
    assert f"{output} cannot be written: File too large; make room and run again" in said
    assert names_in(tmp_path) in ([], ["place"])


@pytest.mark.parametrize("command", ["index", "synth", "prepare"])
def test_what_a_kill_left_goes_with_the_next_start(
    command: str, words: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / name_of(command)
    hidden = tmp_path / f".out.{GONE}.partial{output.suffix}"
    if command == "synth":
        (hidden / "town/rgb").mkdir(parents=True)
    elif command == "prepare":
        hidden = output / "scene/depth" / f".000001.{GONE}.partial.png"
        hidden.parent.mkdir(parents=True)
        hidden.write_text("half")
    else:
        hidden.write_text("half")
    other = hidden.with_name(f".other.{GONE}.partial{output.suffix}x")  # of another output, or somebody's
    other.mkdir()
    given = [str(word) for word in words(command, output)]
    claim(lock_beside(output))
    assert scal3r(given) == 2 and hidden.exists(), "its owner may be at work"
    (lock_beside(output) / "0123.json").unlink()
    assert scal3r(given) == 0
    assert not hidden.exists() and other.exists()
    assert not list(tmp_path.glob(".out*"))


def test_half_written_files_within_a_folder_go(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    kept = ["a/.hidden", "a/x.partial", ".checkpoint.partial", f"a/.{GONE}.partial"]
    for name in (*kept, f"a/.points.{GONE}.partial.ply", f".recipe.v2.{GONE}.partial.yaml"):
        (tmp_path / name).write_text("")
    remove_leftovers_within(tmp_path)
    assert names_in(tmp_path) == sorted(["a", *kept])


def test_a_folder_that_became_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock lies beside it and can be taken all the same."""
    original = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if Path(path).parent == tmp_path / "out":
            raise OSError(errno.EROFS, "Read-only file system", path)
        return original(path, *arguments, **options)

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(
        UserError, match="folder .*out cannot be written: Read-only file system; name a place"
    ):
        with claimed(tmp_path / "out", "folder", is_folder=True):
            pytest.fail("the work has begun")


def test_output_that_cannot_be_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        assert scal3r(["config", "debug/cpu"]) == 2
        with suppress(OSError):
            full.flush()
    assert "No space left on device; make room and run again" in capsys.readouterr().err


def test_a_reader_who_has_left_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    reading, writing_end = os.pipe()
    os.close(reading)
    with os.fdopen(writing_end, "w") as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        assert scal3r(["config", "debug/cpu"]) == config.EXIT_BROKEN_PIPE
        with suppress(OSError):
            pipe.flush()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.ENOSPC, "x"),
            "index i cannot be written: No space left on device; make room and run again",
        ),
        (
            OSError(errno.EDQUOT, "x"),
            "index i cannot be written: Disk quota exceeded; make room and run again",
        ),
        (
            PermissionError(errno.EACCES, "x", "/a/b.png"),
            "/a/b.png cannot be used: Permission denied; check its",
        ),
        (
            PermissionError(errno.EACCES, "x", "/a/.i.7.partial.parquet"),
            "index i cannot be written: Permission",
        ),
        (
            PermissionError(errno.EACCES, "x", "i/x.png"),
            "index i cannot be written: Permission denied; check its",
        ),
        (FileExistsError(errno.EEXIST, "x", "/a"), "/a cannot be used: File exists; a file is in the way"),
        (OSError(errno.EMFILE, "x", "/a"), "/a cannot be used: Too many open files; allow more open files"),
        (OSError(errno.EIO, "x"), "index i cannot be written: Input/output error; the disk"),
    ],
)
def test_lines(error: OSError, line: str) -> None:
    with pytest.raises(UserError) as caught, writing("index i"):
        raise error
    assert str(caught.value).startswith(line)
    with (
        pytest.raises(UserError, match="cannot be"),
        raise_on_all_ranks(),
    ):  # where nobody said what is written
        raise error


def test_errors_that_a_programmer_has_to_mend_pass() -> None:
    for error in (
        ValueError("x"),
        OSError("pyarrow has no number"),
        ConnectionRefusedError(errno.ECONNREFUSED, "x"),
    ):
        with pytest.raises(type(error)), writing("index i"):
            raise error
        assert told(error) is None and not is_of_the_machine(error)


def test_what_rust_says_of_the_system_counts(tmp_path: Path) -> None:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with largest_file(100), pytest.raises(SafetensorError) as caught, atomic_output(tmp_path / "a") as path:
        save_file({"x": torch.zeros(1000)}, path)
    assert is_of_the_machine(caught.value)
    assert told(caught.value, "a") == "a cannot be written: File too large; make room and run again"
