"""`resume`: auto, none, and the path of another run; what was changed in the recipe is told and recorded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scal3r_train.config import UserError
from scal3r_train.training.monitoring.sinks import METRICS_FILE
from scal3r_train.training.resume import differences
from tests.training import tiny
from tests.training.test_resume import assert_same_end, newest

OneProcess = Callable[..., Path]


@pytest.fixture(scope="module")
def killed(towns: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after three of its steps, with a checkpoint of step 2."""
    folder = tmp_path_factory.mktemp("killed")
    with tiny.killed_after(3):
        tiny.train(tiny.recipe(towns, folder))
    return folder


@pytest.mark.parametrize("part", ["", "checkpoints", "checkpoints/step_00000002"])
def test_another_run_goes_on_here(
    killed: Path, one_process: OneProcess, towns: Path, tmp_path: Path, part: str
) -> None:
    """Bit for bit, with the metrics from its first step on; the other run stays as it was."""
    before = {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()}
    tiny.train(tiny.recipe(towns, tmp_path, {"resume": str(killed / part)}))
    assert_same_end(tmp_path, one_process())
    assert before == {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()}


def test_the_same_command_goes_on_with_its_own_checkpoints(
    killed: Path, towns: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also when the other run is gone by then."""
    shutil.copytree(killed, tmp_path / "other")
    recipe = tiny.recipe(towns, tmp_path / "run", {"resume": str(tmp_path / "other")})
    with tiny.killed_after(2):
        tiny.train(recipe)
    shutil.rmtree(tmp_path / "other")
    capfd.readouterr()
    tiny.train(recipe)
    shown = capfd.readouterr().err
    assert f"{tmp_path}/run has checkpoints of its own: it goes on from them, not from resume=" in shown
    assert f"going on from {tmp_path}/run/checkpoints/step_00000004 after step 4\n" in shown


def test_none_overwrites_no_run(killed: Path, towns: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="resume=none: output_dir .* holds a run already"):
        tiny.train(tiny.recipe(towns, killed, {"resume": "none"}))
    (tmp_path / METRICS_FILE).write_text('{"step": 1, "loss": 1.0}\n')
    with pytest.raises(UserError, match="holds a run already"):
        tiny.train(tiny.recipe(towns, tmp_path, {"resume": "none"}))
    (tmp_path / METRICS_FILE).unlink()
    changes = {"resume": "none", "optim.num_steps": 1, "validation.every": 0}
    tiny.train(tiny.recipe(towns, tmp_path, changes))
    assert newest(tmp_path).name == "step_00000001"


@pytest.mark.parametrize("name", ["absent", "", "broken", "empty"])
def test_a_path_that_is_none_is_refused(killed: Path, towns: Path, tmp_path: Path, name: str) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(newest(killed), broken)
    (broken / "model" / "model.safetensors").unlink()
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    reason = {"broken": "model.safetensors is missing", "empty": "holds no checkpoint"}
    with pytest.raises(UserError, match=reason.get(name, "there is no checkpoint")):
        tiny.train(tiny.recipe(towns, tmp_path / "run", {"resume": str(tmp_path / name)}))


def test_another_run_that_is_at_its_end_is_refused(killed: Path, towns: Path, tmp_path: Path) -> None:
    """It would be called done and leave no weights."""
    changes = {"resume": str(killed), "optim.num_steps": 2}
    with pytest.raises(
        UserError, match="step_00000002 is of step 2 and optim.num_steps is 2: nothing is left"
    ):
        tiny.train(tiny.recipe(towns, tmp_path / "run", changes))
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_an_own_older_checkpoint_is_refused(killed: Path, towns: Path) -> None:
    with pytest.raises(UserError, match="lies in output_dir itself"):
        tiny.train(tiny.recipe(towns, killed, {"resume": str(newest(killed))}))


def test_changes_of_the_recipe_are_told_and_recorded(
    killed: Path, towns: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(killed, run)
    recipe = run / "checkpoints" / "step_00000002" / "recipe.yaml"
    older = recipe.read_text().replace("  clip_norm: 1.0\n", "")  # as code that knew no such key wrote it
    assert len(older.splitlines()) == len(recipe.read_text().splitlines()) - 1
    recipe.write_text(older)
    _forgive(recipe)
    changes: dict[str, Any] = {"optim.num_steps": 4, "optim.backbone_lr": 5e-4, "resume": str(killed)}
    tiny.train(tiny.recipe(towns, run, changes))
    assert [line for line in capfd.readouterr().err.splitlines() if "changed" in line] == [
        "changed in the recipe: optim.num_steps: 5 -> 4",
        "changed in the recipe: optim.backbone_lr: 0.001 -> 0.0005",
    ]
    tiny.train(tiny.recipe(towns, run, changes | {"optim.num_steps": 5}))
    progress = json.loads((newest(run) / "manifest.json").read_text())["progress"]
    assert progress["recipe_changes"] == [
        {"step": 2, "key": "optim.num_steps", "old": 5, "new": 4},
        {"step": 2, "key": "optim.backbone_lr", "old": 1e-3, "new": 5e-4},
        {"step": 4, "key": "optim.num_steps", "old": 4, "new": 5},
    ]


def test_sections_that_come_or_go_are_one_change() -> None:
    old = {"a": {"b": 1, "c": [1, {"d": 2}]}, "guard": None, "gone": True, "stages": [1]}
    new = {"a": {"b": 1, "c": [1, {"d": 3}]}, "guard": {"patience": 3}, "come": "x", "stages": [1, 2]}
    assert sorted(differences(old, new)) == [
        ("a.c.1.d", 2, 3),
        ("come", "missing", "x"),
        ("gone", True, "missing"),
        ("guard", None, {"patience": 3}),
        ("stages", [1], [1, 2]),
    ]
    assert list(differences(old, old)) == []


def _forgive(changed: Path) -> None:
    """Let the manifest know a file as it is now."""
    from scal3r_train.training.checkpointing.checkpoint_files import describe_file
    from scal3r_train.training.checkpointing.manifest import OWN_HASH, sealed

    path = changed.parent / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][changed.name] = describe_file(changed)
    del manifest[OWN_HASH]
    path.write_text(sealed(manifest))
