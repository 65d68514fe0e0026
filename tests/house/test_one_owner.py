"""Commands own what they write: a second start says who has it, exits with 2 and changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from json import dumps
from pathlib import Path
from typing import Any

import pytest

from scal3r_data_tools import pack
from scal3r_eval import pipeline
from scal3r_eval.recipe import load_eval_recipe
from scal3r_train import train
from scal3r_train.cli import main as scal3r
from scal3r_train.config import UserError, dump_yaml
from scal3r_train.parallel.folder_lock import Owner, lock_beside, lock_inside
from tests.conftest import PROJECT_ROOT
from tests.training import tiny

SHIPPED = PROJECT_ROOT / "assets" / "scal3r-tiny"


def claim(lock: Path, **changes: Any) -> None:
    """Let a lock be held by another owner, by default by one on another machine."""
    lock.mkdir(parents=True)
    owner = replace(Owner.this_process(), **{"host": "elsewhere", "command": "scal3r train other"} | changes)
    (lock / "0123.json").write_text(dumps(asdict(owner)))


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in folder.rglob("*")
    }


@pytest.fixture
def recipe(towns: Path, tmp_path: Path) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text(dump_yaml(tiny.recipe(towns, tmp_path / "run", {"optim.num_steps": 2})))
    return path


@pytest.fixture
def eval_recipe(towns: Path, tmp_path: Path) -> Path:
    path = tmp_path / "eval.yaml"
    methods = {"straight_line": {"kind": "baseline", "baseline": "straight_line"}}
    document = {
        "task": "eval",
        "output_dir": str(tmp_path / "eval"),
        "benchmark": {"name": "towns", "index": str(towns)},
        "protocol": {"image_hw": [28, 42]},
        "methods": methods,
    }
    path.write_text(dumps(document))
    return path


@pytest.mark.parametrize("what", ["train", "reconstruct", "follow", "eval", "share", "pack", "index"])
def test_a_second_start(
    what: str,
    recipe: Path,
    eval_recipe: Path,
    towns: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scene, images = tmp_path / "scene", towns.parent / "town_001_00000" / "rgb"
    checkpoint = f"model.checkpoint={SHIPPED}"
    command, lock = {
        "train": (["train", recipe], lock_inside(tmp_path / "run")),
        "reconstruct": (["reconstruct", images, scene, checkpoint], lock_beside(scene)),
        "follow": (["reconstruct", images, scene, "--follow", checkpoint], lock_beside(scene)),
        "eval": (["eval", eval_recipe], lock_inside(tmp_path / "eval")),
        "share": (["eval", eval_recipe, "protocol.share=[1,3]"], tmp_path / "eval/.lock_share_1_of_3"),
        "pack": (["data", "pack", towns, tmp_path / "pack"], lock_beside(tmp_path / "pack")),
        "index": (
            ["data", "index", "towns", towns.parent, tmp_path / "i.parquet"],
            lock_beside(tmp_path / "i.parquet"),
        ),
    }[what]
    claim(lock)
    before = contents(tmp_path)
    assert scal3r([str(word) for word in command]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("scal3r: error: ")
    assert f"is being written by process {os.getpid()} on elsewhere, since 20" in line
    assert f"delete {lock / '0123.json'}" in line
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("share", "held", "is_refused"),
    [
        (None, ".lock_share_0_of_2", True),  # tasks of an array job are still at work
        ("[0,2]", ".lock", True),
        ("[0,2]", ".lock_share_1_of_3", True),  # other divisions share sequences with it
        ("[0,2]", ".lock_share_1_of_2", False),
    ],
)
def test_shares_go_together_and_with_nothing_else(
    eval_recipe: Path, tmp_path: Path, share: str | None, held: str, *, is_refused: bool
) -> None:
    claim(tmp_path / "eval" / held)
    before = contents(tmp_path)
    recipe = load_eval_recipe(eval_recipe, [] if share is None else [f"protocol.share={share}"])
    if is_refused:
        with pytest.raises(UserError, match="elsewhere"):
            pipeline.evaluate(recipe)
        assert contents(tmp_path) == before
    else:
        pipeline.evaluate(recipe)
        assert list((tmp_path / "eval/straight_line").glob("*/scores.json"))
        assert sorted(path.name for path in (tmp_path / "eval").glob(".*")) == [held]


def test_a_killed_training_can_be_started_again_at_once(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a SIGKILL leaves on this machine: the claim of a process that does not run."""
    lock = lock_inside(tmp_path / "run")
    here = Owner.this_process()
    claim(lock, host=here.host, pid=1 << 30)
    seen: list[int] = []
    original: Callable[..., Any] = train.Trainer.fit

    def fit(trainer: Any) -> str:
        (path,) = lock.iterdir()
        seen.append(path.name != "0123.json")
        return str(original(trainer))

    monkeypatch.setattr(train.Trainer, "fit", fit)
    assert train.main([str(recipe)]) == 0
    assert seen == [True]
    assert not lock.exists() and (tmp_path / "run/model").is_dir()


def test_a_pack_that_fails_lets_go(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        pack.main(tmp_path / "none.parquet", tmp_path / "pack")
    assert list(tmp_path.iterdir()) == []
