"""Checkpoints survive what happens to disks: damage is found, a full disk loses nothing, pruning keeps enough."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from scal3r_train.config import UserError
from scal3r_train.parallel.engine import Shard
from scal3r_train.training import trainer
from scal3r_train.training.checkpointing import export, host_copy, saver
from scal3r_train.training.checkpointing.checkpoint import (
    Checkpoints,
    CheckpointSettings,
    random_state,
    step_folders,
)
from scal3r_train.training.checkpointing.checkpoint_files import StateReader, piece_entries
from scal3r_train.training.checkpointing.host_copy import HostCopy
from scal3r_train.training.checkpointing.manifest import sealed
from scal3r_train.training.checkpointing.saver import CheckpointSaver
from tests.training import tiny
from tests.training.test_resume import assert_same_end

OneProcess = Callable[..., Path]


@pytest.fixture
def run(one_process: OneProcess, tmp_path: Path) -> Path:
    """A copy of a finished run of five steps: checkpoints of steps 4 and 5."""
    shutil.copytree(one_process(), tmp_path / "run")
    return tmp_path / "run"


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("file", "damage", "reason"),
    [
        ("rank_00000_000.safetensors", flip_a_byte, "rank_00000_000.safetensors has other content"),
        ("rank_00000_000.safetensors", cut, r"rank_00000_000.safetensors has \d+ bytes instead of \d+"),
        ("model/model.safetensors", Path.unlink, "model.safetensors is missing"),
        ("manifest.json", Path.unlink, "manifest.json is missing"),
        ("manifest.json", cut, "manifest.json cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    run: Path,
    one_process: OneProcess,
    towns: Path,
    capfd: pytest.CaptureFixture[str],
    file: str,
    damage: Callable[[Path], None],
    reason: str,
) -> None:
    damage(run / "checkpoints" / "step_00000005" / file)
    tiny.train(tiny.recipe(towns, run))
    line = next(line for line in capfd.readouterr().err.splitlines() if "skipped" in line)
    assert "step_00000005 skipped: " in line
    assert re.search(reason, line)
    assert_same_end(run, one_process())


def test_a_run_without_an_intact_checkpoint_does_not_begin_anew(run: Path, towns: Path) -> None:
    for folder in (run / "checkpoints").iterdir():
        (folder / "manifest.json").unlink()
    before = (run / "metrics.jsonl").read_text()
    with pytest.raises(
        UserError, match="none of the 2 checkpoints in .* is intact; remove them to begin anew"
    ):
        tiny.train(tiny.recipe(towns, run))
    assert (run / "metrics.jsonl").read_text() == before


def test_checkpoints_of_another_format_are_skipped(run: Path, towns: Path) -> None:
    for folder in (run / "checkpoints").iterdir():
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 1}))
    with pytest.raises(UserError, match="none of the 2 checkpoints"):
        tiny.train(tiny.recipe(towns, run))


def newest(run: Path) -> tuple[Path | None, list[str]]:
    """The checkpoint that a run would go on from, and what it would say; nothing is trained."""
    said: list[str] = []
    engine: Any = SimpleNamespace(process=SimpleNamespace(rank=0, world_size=1))
    return Checkpoints(run / "checkpoints", CheckpointSettings()).newest(engine, said.append), said


def altered(manifest: dict[str, Any], keys: list[str | int], value: Any) -> dict[str, Any]:
    """The same entries with another value at a place."""
    copy = json.loads(json.dumps(manifest))
    node = copy
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    return copy


ENTRIES: list[tuple[list[str | int], Any, str]] = [
    (["world_size"], "1", r"world_size = '1': it should be a whole number"),
    (["world_size"], 2, "random has 1 entries for 2 processes"),
    (["progress"], [], "progress = "),
    (["progress", "step"], 4, "progress.step is 4 in step_00000005"),
    (["progress", "num_updates"], None, "progress.num_updates = null"),
    (["random", 0, "torch"], "00", "random holds no state of torch's generator"),
    (["random", 0, "python"], [3, [1, 2], None], r"random.0.python.1"),
    (["random"], None, "random = null"),
    (["parameters"], {"camera_token": 7}, "parameters.camera_token = 7"),
    (["pieces", 0, "stop"], 10**9, "pieces has elements 0 to 1000000000 of"),
    (["pieces", 0, "start"], 1, "pieces holds .* up to element 0 of"),
    (["pieces", 0, "file"], "rank_00009_000.safetensors", "pieces has elements .* in 'rank_00009"),
    (["pieces", 0, "kinds"], ["weight", "momentum"], "does not hold elements 0 to .* of momentum/"),
    (["pieces"], 5, "pieces = 5"),
    (
        ["files", "../../recipe.yaml"],
        {"bytes": 1, "sha256": "0" * 64},
        r"files names '\.\./\.\./recipe.yaml'",
    ),
    (["files", "/etc/passwd"], {"bytes": 1, "sha256": "0" * 64}, "files names '/etc/passwd'"),
    (["files", "recipe.yaml", "sha256"], "zz", "files.recipe.yaml.sha256 = 'zz'"),
    (["files", "recipe.yaml", "bytes"], True, "files.recipe.yaml.bytes = true"),
    (["more"], 1, "unknown key 'more'"),
]


@pytest.mark.parametrize("is_sealed", [True, False], ids=["sealed", "old"])
def test_a_wrong_entry_of_a_manifest_is_named_and_the_checkpoint_before_it_taken(
    run: Path, is_sealed: bool
) -> None:
    """Also where the hash of the manifest is right, or where it has none, being of an earlier version."""
    path = run / "checkpoints" / "step_00000005" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    for keys, value, reason in ENTRIES:
        entries = altered(manifest, keys, value)
        path.write_text(sealed(entries) if is_sealed else json.dumps(entries | {"format": 2}))
        found, said = newest(run)
        assert found == run / "checkpoints" / "step_00000004", keys
        assert len(said) == 1 and re.search(f"step_00000005 skipped: .*{reason}", said[0]), said
    path.write_text(sealed(manifest))
    assert newest(run) == (path.parent, [])


def test_an_altered_manifest_does_not_resume_in_silence(run: Path) -> None:
    path = run / "checkpoints" / "step_00000005" / "manifest.json"
    manifest = json.loads(path.read_text())
    for change in ({"code_version": "0"}, {"sha256": None}, {"sha256": "0" * 64}):
        path.write_text(json.dumps(manifest | change))
        found, said = newest(run)
        assert found == run / "checkpoints" / "step_00000004"
        assert said[0].endswith("manifest.json is not as it was written (its own SHA-256 differs)")
    for text in ("[]", "7", '{"format": 3}', "[" * 100_000, '{"format": {}}'):
        path.write_text(text)
        assert newest(run)[0] == run / "checkpoints" / "step_00000004"


def test_a_file_that_leads_out_of_the_checkpoint_is_damage(run: Path, tmp_path: Path) -> None:
    recipe = run / "checkpoints" / "step_00000005" / "recipe.yaml"
    recipe.rename(tmp_path / "elsewhere")
    recipe.symlink_to(tmp_path / "elsewhere")
    assert newest(run)[1][0].endswith("step_00000005 skipped: recipe.yaml leads out of the checkpoint")


def test_folders_that_are_no_checkpoints_are_left_alone(run: Path, towns: Path) -> None:
    mine = run / "checkpoints" / "step_original"  # of eight letters, as a number has
    mine.mkdir()
    assert newest(run) == (run / "checkpoints" / "step_00000005", [])
    assert {path.name for path in step_folders(run / "checkpoints")} == {"step_00000004", "step_00000005"}


@pytest.mark.parametrize("place", ["state", "model", "manifest"])
def test_a_full_disk_ends_the_run_and_leaves_the_older_checkpoints(
    one_process: OneProcess, towns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The second save fails at one of its stages; afterwards there is room again."""
    message = "No space left on device"
    full = OSError(errno.ENOSPC, message) if place == "manifest" else SafetensorError(message)
    module, name = {
        "state": (host_copy, "save_file"),
        "model": (export, "save_torch_state_dict"),
        "manifest": (saver, "write_text_atomically"),
    }[place]
    original, calls = getattr(module, name), []

    def failing(*arguments: Any, **keywords: Any) -> Any:
        calls.append(1)
        if any((tmp_path / "checkpoints").glob("step_00000002")):
            raise full
        return original(*arguments, **keywords)

    recipe = tiny.recipe(towns, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, failing)
        with pytest.raises(UserError, match="step_00000004 cannot be written: .*No space left on device"):
            tiny.train(recipe)
    assert calls
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["step_00000002"]
    tiny.train(recipe)
    assert_same_end(tmp_path, one_process())


def test_an_unfinished_checkpoint_is_written_again(run: Path, one_process: OneProcess, towns: Path) -> None:
    """The kill came between the two renames that replace a folder."""
    newest = run / "checkpoints" / "step_00000005"
    newest.rename(newest.with_suffix(".old"))
    tiny.train(tiny.recipe(towns, run))
    assert_same_end(run, one_process())
    assert not newest.with_suffix(".old").exists()


def test_multiples_are_kept_beside_the_newest(towns: Path, tmp_path: Path) -> None:
    changes = {"checkpoint": {"every": 1, "keep_last": 1, "keep_every": 2}, "validation.every": 0}
    tiny.train(tiny.recipe(towns, tmp_path, changes))
    kept = sorted(folder.name for folder in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step_00000002", "step_00000004", "step_00000005"]


def test_damaged_later_ones_do_not_crowd_out_what_was_just_saved(towns: Path, tmp_path: Path) -> None:
    changes = {"checkpoint": {"every": 2, "keep_last": 1, "keep_every": 2}, "validation.every": 0}
    tiny.train(tiny.recipe(towns, tmp_path, changes))
    folder = tmp_path / "checkpoints"
    for name in ("step_00000004", "step_00000005"):
        (folder / name / "model" / "model.safetensors").write_bytes(b"cut short")
    with tiny.killed_after(1):
        tiny.train(
            tiny.recipe(towns, tmp_path, changes | {"checkpoint": changes["checkpoint"] | {"every": 3}})
        )
    assert "step_00000003" in {path.name for path in folder.iterdir()}


def test_the_moving_average_is_that_of_the_weights(towns: Path, tmp_path: Path) -> None:
    """Against the closed form from the weights of every step; the first steps are forgotten sooner."""
    changes = {
        "optim.ema_decay": 0.3,
        "checkpoint": {"every": 1, "keep_last": 9},
        "validation.every": 0,
        "optim.warmup_steps": 0,
    }
    tiny.train(tiny.recipe(towns, tmp_path, changes))
    states = [tiny.saved_state(folder) for folder in sorted((tmp_path / "checkpoints").iterdir())]
    name = "aggregator.memory_units.0.w0"
    weights = [state[f"weight/{name}"].double() for state in states]
    for place in range(1, len(states)):
        decay = min(0.3, (2 + place) / (11 + place))  # the state at `place` is that after place + 1 updates
        expected = decay * states[place - 1][f"ema/{name}"].double() + (1 - decay) * weights[place]
        torch.testing.assert_close(states[place][f"ema/{name}"].double(), expected, rtol=1e-5, atol=1e-7)
    assert not torch.equal(weights[-1], states[-1][f"ema/{name}"].double())


def test_saving_draws_nothing(towns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread shares the generators of the run, whose steps draw from them meanwhile."""
    states = []

    def noted(self: CheckpointSaver, *arguments: Any) -> None:
        before = random_state()
        original(self, *arguments)
        states.append((before, random_state()))

    original = CheckpointSaver._complete
    monkeypatch.setattr(CheckpointSaver, "_complete", noted)
    tiny.train(tiny.recipe(towns, tmp_path, {"optim.num_steps": 1, "validation.every": 0}))
    ((before, after),) = states
    assert before == after


def test_an_error_of_the_training_does_not_cost_the_save_under_way(
    towns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    original = trainer.train_step

    def failing(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise UserError("something else")
        return original(*arguments)

    monkeypatch.setattr(trainer, "train_step", failing)
    with pytest.raises(UserError, match="^something else$"):
        tiny.train(tiny.recipe(towns, tmp_path))
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["step_00000002"]


def host_copy_on_the_cpu() -> HostCopy:
    return HostCopy(torch.device("cpu"), torch.optim.SGD([torch.zeros(1)]))


def test_intervals_can_be_read_whatever_their_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three writers with unequal cuts, small files; every interval comes back."""
    monkeypatch.setattr(host_copy, "MAX_FILE_BYTES", 192)
    values = torch.arange(23.0)
    pieces = []
    for rank, (start, stop) in enumerate([(0, 9), (9, 10), (10, 23)]):
        shard = Shard("a", (23,), start, values[start:stop].clone(), {"exp_avg": -values[start:stop]})
        other = Shard("b", (rank + 1,), 0, torch.full((rank + 1,), float(rank)), is_replicated=True)
        copy = host_copy_on_the_cpu()
        pieces += copy.take(rank, [shard, other], {"a": 2 * values[start:stop]})
        copy.write(tmp_path)
    assert len(list(tmp_path.glob("rank_00000_*.safetensors"))) == 2
    reader = StateReader(tmp_path, piece_entries(pieces))
    for start in range(24):
        for stop in range(start, 24):
            assert torch.equal(reader.read("weight", "a", start, stop), values[start:stop])
    assert torch.equal(reader.read("exp_avg", "a", 3, 12), -values[3:12])
    assert torch.equal(reader.read("ema", "a", 8, 11), 2 * values[8:11])
    assert torch.equal(reader.read("weight", "b", 0, 1), torch.zeros(1)), "replicated: rank 0 writes it"
    assert not reader.has("exp_avg", "b")
    with pytest.raises(UserError, match="holds no weight of b beyond element 1"):
        reader.read("weight", "b", 0, 2)


def test_what_is_written_is_the_state_of_the_moment_of_the_copy(tmp_path: Path) -> None:
    """Mixed dtypes and odd lengths; the training changes its tensors before the files are written; memory is kept."""
    copy = host_copy_on_the_cpu()
    wide, narrow = torch.randn(7, requires_grad=True), torch.randn(3).bfloat16()
    shards = [
        Shard("narrow", (3,), 0, narrow),
        Shard("wide", (7,), 0, wide.detach(), {"exp_avg": wide.detach()}),
    ]
    places = set()
    for number in range(2):
        expected = wide.detach().clone(), narrow.clone()
        pieces = copy.take(0, shards, {})
        with torch.no_grad():
            wide.add_(1), narrow.mul_(2)
        folder = tmp_path / str(number)
        folder.mkdir()
        copy.write(folder)
        reader = StateReader(folder, piece_entries(pieces))
        assert torch.equal(reader.read("weight", "wide", 0, 7), expected[0])
        assert torch.equal(reader.read("exp_avg", "wide", 0, 7), expected[0])
        assert torch.equal(reader.read("weight", "narrow", 0, 3), expected[1])
        places.add(next(iter(copy._files.values()))["weight/wide"].data_ptr())
    assert len(places) == 1
