"""The debug recipes run, by the very commands that their headers give, and leave a model that can be loaded."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scal3r_train.data.sampling.plan import Source, plan_step
from scal3r_train.model.load_model import load_model
from scal3r_train.recipe import load_training_recipe
from tests.conftest import PROJECT_ROOT
from tests.house.recipe_header import commands_of, launches_of
from tests.house.test_recipes import relative

RECIPES = sorted((PROJECT_ROOT / "recipes" / "debug").glob("*.yaml"))
LOOPBACK = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
PROGRAMS = {
    "scal3r": ["-m", "scal3r_train.cli"],
    "torchrun": ["-m", "torch.distributed.run", *LOOPBACK],
}
SETTINGS = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
LIMIT_S = 280


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=relative)
def test_it_runs_as_its_header_says(path: Path, tmp_path: Path) -> None:
    (tmp_path / "recipes").symlink_to(PROJECT_ROOT / "recipes")
    for program, *words in commands_of(path):
        command = [sys.executable, *PROGRAMS[program], *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | SETTINGS, capture_output=True, text=True, timeout=LIMIT_S
        )
        assert done.returncode == 0, done.stderr[-2000:]
    recipe = load_training_recipe(path)
    run = tmp_path / recipe.output_dir
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == recipe.optim.num_steps
    assert all(loss is not None and math.isfinite(loss) for loss in losses)
    assert torch.isfinite(
        load_model(run / "model", torch.device("cpu"))(torch.rand(1, 1, 4, 3, 28, 42)).depth
    ).all()


def test_the_long_curriculum_grows() -> None:
    path = PROJECT_ROOT / "recipes/debug/long_curriculum.yaml"
    recipe = load_training_recipe(path)
    sources = [Source("absent", 1.0, None)]
    world_size = launches_of(path)[0].world_size
    plans = [
        plan_step(recipe.curriculum, sources, 0, step, world_size) for step in range(recipe.optim.num_steps)
    ]
    stages = (plans[:6], plans[6:12], plans[12:])
    longest = [max(plan.shape.chunks_per_rank for plan in stage) for stage in stages]
    assert longest == [1, 4, 6]
