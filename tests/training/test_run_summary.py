"""What a run says away from a terminal: the table of its start, a line a logged step, the table of its end."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from scal3r_train.config import dump_yaml
from scal3r_train.data.index.index import load_index
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.hub_card import reconstruct_command
from scal3r_train.planning.predicted_peak import predicted_peak
from scal3r_train.recipe import load_training_recipe
from scal3r_train.training.best_so_far import BestSoFar
from scal3r_train.training.monitoring.step_line import step_line, validation_line
from scal3r_train.training.recipe import TrainingRecipe
from scal3r_train.training.run_summary import RunEnd, as_table, end_rows
from tests.forking import ForkServer
from tests.training import tiny

CHANGES: dict[str, Any] = {
    "name": None,
    "model.train": "memories",
    "optim.num_steps": 7,
    "optim.accumulation_steps": 2,
    "telemetry.log_every": 3,
    "curriculum.chunks_per_rank": {"2": 1.0},
}


def rows_of(lines: list[str]) -> dict[str, list[str]]:
    """Return the texts of a table by name."""
    rows: dict[str, list[str]] = {}
    name = ""
    for line in lines:
        head, text = re.fullmatch(r"(\w*) +(.*)", line).groups()
        name = head or name
        rows.setdefault(name, []).append(text)
    return rows


def test_a_whole_run_in_plain_lines(towns: Path, tmp_path: Path, forks: ForkServer) -> None:
    run = tmp_path / "street"
    recipe = tiny.recipe(towns, run, CHANGES)
    (tmp_path / "recipe.yaml").write_text(dump_yaml(recipe))
    done = forks.run("-m", "scal3r_train.train", tmp_path / "recipe.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and re.fullmatch(r"[\x20-\x7e\n]*", done.stderr), "no control characters"
    lines = done.stderr.splitlines()
    middle = [line for line in lines if line.startswith("step ") and "/7 " in line]
    first, last = lines.index(middle[0]), lines.index(middle[-1])
    assert lines[first : last + 1] == middle
    assert [re.match(r"step (\d)/7  (\w+)", line).groups() for line in middle] == [
        ("0", "validation"),
        *((step, kind) for step in "36" for kind in ("loss", "validation")),
        ("7", "validation"),
    ]
    number = r"[0-9.e+-]+"
    assert re.fullmatch(
        rf"step 3/7  loss {number} \(camera {number}, depth {number}\)  "
        rf"lr {number}  gradient {number}  {number} frames/s, .* left",
        middle[1],
    )
    start, end = rows_of(lines[:first]), rows_of(lines[last + 1 :])
    assert start["run"] == ["street"]
    assert start["model"][0].startswith("2 layers of 16, 2 memories, 0.0")
    assert start["model"][0].endswith("M parameters, from random weights")
    assert start["engine"] == ["single on 1 rank, cpu, fp32"]
    index = load_index(towns)
    frames = sum(index[row].num_frames for row in range(len(index)))
    assert start["data"] == [f"towns: {len(index)} sequences, {frames} frames, 100 % of the windows"]
    assert start["steps"] == ["7, validation every 3, checkpoint every 2"]
    assert start["step"] == ["4 chunks, 16 frames on all ranks together, 2 micro-steps"]
    assert start["output"] == [str(run)]
    assert re.fullmatch(r"[0-9.]+ MiB of tensors a rank .*", start["memory"][0])
    assert end["done"][0].startswith("7 steps, in ")
    assert re.fullmatch(
        rf"val/loss {number} after step \d, not kept \(checkpoint.best=val/loss keeps it\)|"
        rf"val/loss {number} after step \d, .*/step_0000000\d",
        end["best"][0],
    )
    assert end["checkpoint"] == [f"{run}/checkpoints/step_00000007"] and end["model"] == [f"{run}/model"]
    assert f"scal3r reconstruct VIDEO OUT model.checkpoint={run}/model" in end["next"]
    for path in (end["checkpoint"][0], end["model"][0], end["metrics"][0]):
        assert Path(path).exists()


def test_trained_and_frozen_are_counted(towns: Path, tmp_path: Path) -> None:
    from scal3r_train.parallel.build_engine import build_engine
    from scal3r_train.parallel.process import joined_processes
    from scal3r_train.train import build_model
    from scal3r_train.training.trainer import Trainer

    recipe = tiny.recipe(towns, tmp_path, {"model.train": "memories"})
    with joined_processes() as process:
        model = build_model(recipe.model)
        counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
        engine = build_engine(recipe.parallel, process, 1)
        size = Trainer(recipe, engine, model).model_size
        engine.close()
    assert size.total == sum(count for count, _ in counts)
    assert 0 < size.trained == sum(count for count, is_trained in counts if is_trained) < size.total


VALUES = {
    "loss": 1.25,
    "weighted/camera_translation": 0.25,
    "weighted/camera_fov": 0.5,
    "weighted/depth_regression": 0.4,
    "weighted/my_own_term": 0.1,
    "grad_norm": 0.8341,
    "lr/memory_decayed": 1e-3,
    "lr/memory_plain": 1e-3,
    "lr/backbone_decayed": 1e-5,
    "throughput/frames_per_s": 34.14,
}


def test_parts_of_a_head_are_added() -> None:
    assert step_line(20, 60000, VALUES, ", 3 h 20 min left") == (
        "step    20/60000  loss 1.25 (camera 0.75, depth 0.4, my_own_term 0.1)  "
        "lr memory 0.001, backbone 1e-05  gradient 0.834  34.1 frames/s, 3 h 20 min left"
    )
    alike = step_line(20, 99, VALUES | {"lr/backbone_decayed": 1e-3, "loss": float("nan")}, "")
    assert alike.startswith("step 20/99  loss nan (") and "  lr 0.001  " in alike


def test_the_best_validation_is_marked() -> None:
    values = {"val/loss": 0.5, "val/auc_5": 0.25}
    assert validation_line(3, 10, values, "") == "step  3/10  validation: loss 0.5  auc_5 0.25"
    assert validation_line(3, 10, values, "val/auc_5").endswith("  (best val/auc_5 so far)")


def ended(recipe: TrainingRecipe, checkpoint: Path, **changes: Any) -> dict[str, list[str]]:
    end = replace(RunEnd(60, 60, 130.0, 0, BestSoFar("val/loss")), **changes)
    return rows_of(as_table(end_rows(recipe, checkpoint, end)).splitlines())


def test_the_end_of_a_run_of_a_model_that_measures_motion(towns: Path, tmp_path: Path) -> None:
    recipe = tiny.recipe(towns, tmp_path, {})
    end = RunEnd(60, 60, 130.0, 0, BestSoFar("val/loss"))
    size = recipe.curriculum.every_stage()[-1].resolution[0]
    rows = end_rows(recipe, tmp_path / "step_00000060", end, has_motion=True)
    assert ("next", reconstruct_command(str(tmp_path / "model"), (size.height, size.width))) in rows
    assert any(f" small input.image_hw=[{size.height},{size.width}] " in row[1] for row in rows)
    assert ("next", f"scal3r eval eval/circuits checkpoint={tmp_path}/model") in rows


def test_the_end_of_other_runs(towns: Path, tmp_path: Path) -> None:
    """Resumed, skipped, never finite, ended early, without validation, with everything there is to look at."""
    checkpoint = tmp_path / "checkpoints" / "step_00000060"
    for name in ("pictures", "profile", "tensorboard", "model_best"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "model_best" / "config.json").touch()
    rows = ended(
        tiny.recipe(towns, tmp_path), checkpoint, num_steps_now=20, num_skipped=2, reason="no better"
    )
    assert rows["done"] == ["60 steps, 20 of them since this start, 2 skipped, in 2 min 10 s (6.5 s a step)"]
    assert rows["early"] == ["no better"]
    assert rows["best"] == ["no validation after a step gave a finite val/loss"]
    assert rows["profile"] == [f"{tmp_path}/profile"] and rows["events"] == [f"{tmp_path}/tensorboard"]
    assert rows["next"][0].endswith(f"={tmp_path}/model_best")
    silent = ended(tiny.recipe(towns, tmp_path, {"validation.every": 0}), checkpoint, num_steps_now=0)
    assert "best" not in silent
    assert silent["done"] == ["60 steps, 0 of them since this start, in 2 min 10 s"]


def test_the_predicted_memory_is_that_of_the_largest_stage() -> None:
    def peak(*overrides: str) -> int:
        recipe = load_training_recipe("debug/long_curriculum", overrides)
        assert recipe.model.network is not None
        network = Scal3RConfig(**recipe.model.network.model_dump())
        return predicted_peak(recipe, network, "ddp", 2, "cuda")

    stages = [
        f"curriculum.stages=[{{until: 6, chunks_per_rank: {{{chunks}: 1.0}}, chunk_size: {{4: 1.0}}}}, {{}}]"
        for chunks in (1, 6)
    ]
    few, many = (peak(stage, "optim.num_steps=6", "optim.stages=[]") for stage in stages)
    assert (
        few
        < many
        == peak("curriculum.stages.1.chunk_size={4: 1.0}", "curriculum.stages.0.chunk_size={4: 1.0}")
    )
