"""The fuzzer's verdicts, and a fixed corpus of inputs that it or people found: each is refused in one line.

Some of the corpus took gigabytes, ran without end, read other files or ended in a traceback. A folder is a kind of
benchmarks/fuzzing/kinds.py. New finds go here once they are mended, the smaller the better.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.fuzzing.kinds import KINDS
from benchmarks.fuzzing.trial import MIB, Limits, run_trial
from scal3r_train.config import UserError, run_command

CORPUS = Path(__file__).with_name("fuzz_corpus")
INPUTS = sorted(path for path in CORPUS.rglob("*") if path.is_file())
READERS = {kind.name: kind.read for kind in KINDS}
MOST_LETTERS = 700
AXES = "".join(f"property float {axis}\n" for axis in "xyz")
POINTS = f"ply\nformat ascii 1.0\nelement vertex 1\n{AXES}end_header\n0 0 0\n"


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: path.relative_to(CORPUS).as_posix())
def test_the_corpus_is_refused_in_a_line(path: Path, tmp_path: Path) -> None:
    kind, *below = path.relative_to(CORPUS).parts
    root = tmp_path / "root"
    shutil.copytree(CORPUS / kind, root)
    if kind == "points":  # what they are compared with
        (root / "right.ply").write_text(POINTS)
    with pytest.raises(UserError) as caught:
        READERS[kind](root, root.joinpath(*below))
    line = str(caught.value)
    assert "\n" not in line.strip()
    assert path.name in line
    assert len(line) < MOST_LETTERS


def test_the_corpus_has_every_kind_of_bomb() -> None:
    assert {path.relative_to(CORPUS).parts[0] for path in INPUTS} >= {
        "recipe",
        "image",
        "depth",
        "index",
        "pipe",
    }
    assert len(INPUTS) > 40


def refuse() -> int:
    raise UserError("input.txt is wrong")


def complain_twice() -> int:
    sys.stderr.write("scal3r: error: input.txt is wrong\nscal3r: error: and so is the rest\n")
    return 2


def fail() -> int:
    raise ZeroDivisionError


def take_memory() -> int:
    return len(bytearray(os.urandom(1)) * (64 * MIB)) * 0


@pytest.mark.parametrize(
    ("read", "verdict"),
    [
        (refuse, "refused"),
        (lambda: 0, "accepted"),
        (fail, "traceback"),
        (lambda: time.sleep(60), "hang"),
        (lambda: os.kill(os.getpid(), signal.SIGUSR1), "crash"),
        (lambda: 3, "wrong exit"),
        (complain_twice, "wrong exit"),
        (take_memory, "memory"),
    ],
)
def test_verdicts(read: Callable[[], int], verdict: str, tmp_path: Path) -> None:
    limits = Limits(wall_s=0.3 if verdict == "hang" else 60.0, memory_mib=32)
    outcome = run_trial(lambda: run_command(read), tmp_path, limits, ("input.txt",), (0,))
    assert outcome.verdict == verdict, outcome


def test_a_refusal_must_name_its_file(tmp_path: Path) -> None:
    outcome = run_trial(lambda: run_command(refuse), tmp_path, Limits(), ("other.txt",), (0,))
    assert outcome.verdict == "unnamed"
