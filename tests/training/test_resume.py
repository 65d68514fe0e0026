"""A run that was killed and started again is the run that was never killed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scal3r_train.config import UserError
from scal3r_train.model import scal3r_auto
from tests.training import tiny
from tests.training.conftest import Ranks

OneProcess = Callable[..., Path]


def assert_equal_states(first: Any, second: Any) -> None:
    """Bit for bit, through all nesting."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal_states(first[key], second[key])
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_equal_states(one, other)
    else:
        assert first == second


def newest(run: Path) -> Path:
    return sorted((run / "checkpoints").iterdir())[-1]


def assert_same_end(resumed: Path, whole: Path) -> None:
    assert tiny.metrics(resumed) == tiny.metrics(whole)
    assert_equal_states(tiny.weights(resumed), tiny.weights(whole))
    assert_equal_states(tiny.saved_state(newest(resumed)), tiny.saved_state(newest(whole)))


def test_one_process_bit_for_bit(one_process: OneProcess, towns: Path, tmp_path: Path) -> None:
    """Killed after 3 steps; the newest complete checkpoint is of step 2."""
    recipe = tiny.recipe(towns, tmp_path)
    with tiny.killed_after(3):
        tiny.train(recipe)
    assert [line["step"] for line in tiny.steps(tmp_path)] == [1, 2, 3]
    assert newest(tmp_path).name == "step_00000002"
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # a line cut short
    tiny.train(recipe)
    assert_same_end(tmp_path, one_process())


def test_killed_while_a_checkpoint_was_written(one_process: OneProcess, towns: Path, tmp_path: Path) -> None:
    recipe = tiny.recipe(towns, tmp_path, {"checkpoint.every": 1})
    with tiny.killed_after(3, while_saving=True):
        tiny.train(recipe)
    saved = {folder.name: folder for folder in (tmp_path / "checkpoints").iterdir()}
    assert set(saved) == {"step_00000001", "step_00000002", "step_00000003.partial"}
    assert [file.name for file in saved["step_00000003.partial"].iterdir()] == ["rank_00000_000.safetensors"]
    tiny.train(recipe)
    assert not any((tmp_path / "checkpoints").glob("*.partial"))
    assert_same_end(tmp_path, one_process())


def test_killed_before_the_first_checkpoint(one_process: OneProcess, towns: Path, tmp_path: Path) -> None:
    recipe = tiny.recipe(towns, tmp_path)
    with tiny.killed_after(1):
        tiny.train(recipe)
    tiny.train(recipe)
    assert_same_end(tmp_path, one_process())


def test_killed_while_accumulating_with_reading_processes(
    one_process: OneProcess, towns: Path, tmp_path: Path
) -> None:
    changes = {"optim.accumulation_steps": 2, "optim.num_steps": 3}
    recipe = tiny.recipe(towns, tmp_path, changes | {"data.num_workers": 1})
    with tiny.killed_after(2):
        tiny.train(recipe)
    tiny.train(recipe)
    assert_same_end(tmp_path, one_process(changes))


@pytest.mark.exactness
def test_two_ranks(ranks: Ranks) -> None:
    assert_same_end(ranks.folder / "resumed", ranks.folder / "shared")


def test_every_step_is_logged_once_and_validated_on_time(one_process: OneProcess) -> None:
    run = one_process()
    assert [line["step"] for line in tiny.steps(run)] == [1, 2, 3, 4, 5]
    validated = [line["step"] for line in tiny.metrics(run) if "val/rotation_deg" in line]
    assert validated == [0, 3, 5]
    assert [line["lr/backbone_decayed"] for line in tiny.steps(run)][:3] == [0.0, 5e-4, 1e-3]


def test_old_checkpoints_are_pruned_and_complete(one_process: OneProcess) -> None:
    folders = sorted((one_process() / "checkpoints").iterdir())
    assert [folder.name for folder in folders] == ["step_00000004", "step_00000005"]
    for folder in folders:
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["progress"]["step"] == int(folder.name[5:]) and manifest["world_size"] == 1
        assert (folder / "recipe.yaml").read_text() == (one_process() / "recipe.yaml").read_text()
        assert (folder / "model" / "model.safetensors").is_file()


def test_a_finished_run_does_not_train_again(one_process: OneProcess, towns: Path, tmp_path: Path) -> None:
    shutil.copytree(one_process(), tmp_path / "run")
    tiny.train(tiny.recipe(towns, tmp_path / "run"))
    assert tiny.metrics(tmp_path / "run") == tiny.metrics(one_process())
    assert_equal_states(tiny.weights(tmp_path / "run"), tiny.weights(one_process()))


def test_a_checkpoint_of_another_network_is_refused(
    one_process: OneProcess, towns: Path, tmp_path: Path
) -> None:
    shutil.copytree(one_process(), tmp_path / "run")
    wider = tiny.NETWORK | {"hidden_size": 32}
    with pytest.raises(UserError, match=r"step_00000005 is of another network: .* is \[.*16.*\] there and"):
        tiny.train(tiny.recipe(towns, tmp_path / "run", {"model.network": wider}))


def test_a_new_run_starts_from_the_weights_of_another(
    one_process: OneProcess, towns: Path, tmp_path: Path
) -> None:
    changes = {"model": {"checkpoint": str(one_process() / "model")}, "optim.num_steps": 1}
    tiny.train(tiny.recipe(towns, tmp_path, changes))  # one step at learning rate 0: the warm-up begins there
    assert_equal_states(tiny.weights(tmp_path), tiny.weights(one_process()))


def test_checkpoints_hold_no_code(one_process: OneProcess) -> None:
    """Tensors and text: nothing that could be unpickled; `scal3r_auto.py` only imports the installed package."""
    files = [path for path in newest(one_process()).rglob("*") if path.is_file()]
    code = [path for path in files if path.suffix == ".py"]
    assert code, "the shim of the Auto classes is gone"
    assert {path.read_bytes() for path in code} == {Path(scal3r_auto.__file__).read_bytes()}
    files = [path for path in files if path not in code]
    assert {file.suffix for file in files} == {".safetensors", ".json", ".yaml", ".md"}
