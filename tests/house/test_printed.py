"""Whatever a name on a disk or in an index holds, no control character is printed; names that are no text."""

from __future__ import annotations

import dataclasses
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.table import Table

from scal3r_data_tools import index, pack
from scal3r_data_tools.adapters import scenenet_rgbd, waymo
from scal3r_train import notes
from scal3r_train.cli import main as scal3r
from scal3r_train.config import UserError, run_command
from scal3r_train.data.index.index import load_index, write_index
from scal3r_train.data.index.source import in_order, open_source
from scal3r_train.data.io.frame_files import read_packed
from scal3r_train.data.sequence import PackedFrames
from scal3r_train.inference.streaming.frame_folder import FrameFolder
from scal3r_train.notes import CONTROL, answer, new_console, note, printable, tell
from scal3r_train.shown_progress import ShownWork
from tests.conftest import PROJECT_ROOT

# Clears the screen, names the window, is markup that never ends, turns the direction of reading, ends the line.
EVIL = "a\x1b[2J\x1b]0;owned\x07\x9b31m[/b][link=x]\u202eb\r\nscal3r: error: gone"
PACKAGES = ("scal3r_train", "data_tools", "eval")


def sources() -> Iterator[tuple[Path, str]]:
    for package in PACKAGES:
        for path in sorted((PROJECT_ROOT / package).rglob("*.py")):
            yield path.relative_to(PROJECT_ROOT), path.read_text(encoding="utf-8")


def test_everything_is_printed_by_one_module() -> None:
    bare = re.compile(r"sys\.std(out|err)\.write\(|(?<![\w.])print\(|(?<!\w)Console\(|\bwarnings\.warn\(")
    found = [str(path) for path, text in sources() if bare.search(text) and path.name != "notes.py"]
    assert not found, "use tell, answer, note or new_console of scal3r_train.notes"


def test_digits_are_those_that_int_reads() -> None:
    """'\u00b2'.isdigit() holds and int('\u00b2') fails."""
    assert [str(path) for path, text in sources() if re.search(r"\.is(digit|numeric)\(", text)] == []


@pytest.mark.parametrize("say", [tell, answer, note])
def test_lines(say: object, capsys: pytest.CaptureFixture[str]) -> None:
    say(f"{EVIL} \udce9 \u00fc")  # type: ignore[operator]
    captured = capsys.readouterr()
    assert (captured.out + captured.err).count("\n") == 1
    text = (captured.out + captured.err).rstrip("\n")
    assert not CONTROL.search(text)
    assert "\\x1b[2J" in text and "\\u202e" in text and "\\xe9 \u00fc" in text


def test_tables_and_bars(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table()
    table.add_column(EVIL)
    table.add_row(printable(EVIL))
    console = new_console(width=200)
    console.print(table)
    console.print(EVIL)
    console.rule(EVIL)
    shown = capsys.readouterr().out
    assert not CONTROL.search(shown.replace("\n", ""))
    assert "[/b][link=x]" in shown
    terminal = io.StringIO()
    monkeypatch.setattr(notes.sys, "stderr", terminal)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with ShownWork(EVIL, 2) as work:
        work.reach(1, note=EVIL)
        work.say(EVIL)
    assert "\\x1b[2J" in terminal.getvalue()
    assert not any(part in terminal.getvalue() for part in ("\x1b[2J", "\x1b]0;", "\x07", "\x9b", "\u202e"))


def test_errors(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> int:
        raise UserError(f"no {EVIL}")

    def lack() -> int:
        raise FileNotFoundError(2, "x", f"/{EVIL}\udce9")

    for command in (refuse, lack):
        assert run_command(command) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and not CONTROL.search(said.rstrip("\n"))
    with pytest.raises(SystemExit):
        scal3r(["data", "index", "--no" + EVIL])
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and not CONTROL.search(said.rstrip("\n"))


def test_commands(towns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = load_index(towns)[0]
    names = ("gone\x1b[31m.png", *record.image[1:])
    record = dataclasses.replace(record, sequence_id=EVIL, licence=EVIL, dataset=EVIL, image=names)
    path = tmp_path / "i\x1b[2J.parquet"
    write_index(path, [record])
    outcomes = [
        scal3r([str(word) for word in words])
        for words in (
            ["data", "check", path, "num_pairs=3"],
            ["data", "summary", path],
            ["data", "pack", path, tmp_path / "p\x9b"],
            ["data", "preview", path, tmp_path / "p.png", "sequences=[x]"],
            ["data", "index", "images", tmp_path / "\x1b[2Jx", tmp_path / "o.parquet"],
            ["reconstruct", f"{path}#\x1b]0;x\x07", tmp_path / "scene"],
            ["config", tmp_path / "\x1b[2J.yaml"],
            ["export", tmp_path / "\x1b[2J", tmp_path / "out", "--to", "ply"],
        )
    ]
    assert outcomes == [1, 0, 0, 2, 2, 2, 2, 2]
    captured = capsys.readouterr()
    shown = captured.out + captured.err
    assert not CONTROL.search(shown.replace("\n", ""))
    assert "\nscal3r: error: gone" not in shown
    assert "owned" in captured.out and "gone\\x1b[31m.png" in captured.out


@pytest.fixture
def latin(tmp_path: Path) -> Path:
    """A folder of images, the name of one of which is in Latin 1."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png", os.fsdecode(b"caf\xe9.png")):
        Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(os.path.join(folder, name))
    return folder


def test_names_that_are_no_text_are_refused(
    latin: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(UserError, match="its name is no UTF-8 text; rename it, e.g. with `convmv"):
        open_source(latin)
    assert scal3r(["data", "index", "images", str(latin), str(tmp_path / "i.parquet")]) == 2
    assert scal3r(["reconstruct", str(latin), str(tmp_path / "scene"), "model.checkpoint=scal3r-tiny"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "photos/caf\\xe9.png: its name is no UTF-8 text" in line] == lines
    assert len(lines) == 2 and [path.name for path in tmp_path.iterdir()] == ["photos"]
    (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    for arguments in (
        ["data", "index", "images", os.fsdecode(b"caf\xe9"), "x.parquet"],
        ["config", os.fsdecode(b"\xff.yaml")],
    ):
        with pytest.raises(SystemExit):
            scal3r(arguments)
        assert "is no UTF-8 text; rename the file or folder" in capsys.readouterr().err
    with pytest.raises(UserError, match="is no UTF-8 text"):
        open_source(tmp_path / os.fsdecode(b"caf\xe9"))


def test_a_stream_goes_on_without_them(latin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = FrameFolder(latin)
    folder.close(leave_out_broken=True)
    folder.scan()
    folder.scan()
    assert folder.record().image == ("a.png", "b.png")
    assert folder.left_out == ["caf\\xe9.png"]
    said = capsys.readouterr().err
    assert said.count("is left out: its name is no UTF-8 text") == 1 and "caf\\xe9.png" in said


def test_digits_that_are_no_numbers(tmp_path: Path) -> None:
    assert in_order(["b10", "b2", "b\u00b2", "b\u0663"]) == ["b2", "b\u0663", "b10", "b\u00b2"]
    assert not waymo._is_segment(frozenset({"0001\u00b2_x.npz", "y.jpg"}))
    assert scenenet_rgbd._natural(Path("a/x\u00b23.pb")) == ("a", 3, "x\u00b23.pb")
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("1\u00b2.png", "\u00b23.png", "10.png"):
        Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(folder / name)
    assert index.main("images", folder, tmp_path / "i.parquet") == 0
    assert load_index(tmp_path / "i.parquet")[0].image == ("1\u00b2.png", "10.png", "\u00b23.png")
    assert pack.main(tmp_path / "i.parquet", tmp_path / "p") == 0
    packed = PackedFrames(str(tmp_path / "p" / "frames-00000.parquet"), 0)
    assert read_packed(packed, "image#2")
    for name in ("image", "image#", "image#\u00b2", "image#-1", f"image#{'9' * 5000}"):
        with pytest.raises(UserError, match="names no frame of it"):
            read_packed(packed, name)
