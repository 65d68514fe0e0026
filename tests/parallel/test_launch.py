"""What `accelerate launch` may ask for: each recipe of recipes/accelerate starts what it says, the rest is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from scal3r_train.config import UserError
from scal3r_train.parallel.launch import DECIDED_BY_RECIPE, launched_engine, launched_zero_config
from tests.conftest import PROJECT_ROOT

# Each takes two processes' imports: one of every library is enough for a quick run.
QUICK = ("ddp", "zero2", "fsdp2")
RECIPES = [
    pytest.param(path, id=path.stem, marks=() if path.stem in QUICK else pytest.mark.slow)
    for path in sorted((PROJECT_ROOT / "recipes/accelerate").glob("*.yaml"))
]
PROBE = """
import sys
from scal3r_train.config import run_command
from scal3r_train.parallel.build_engine import build_engine
from scal3r_train.parallel.process import joined_processes
from scal3r_train.parallel.settings import ParallelSettings

def main():
    with joined_processes() as process:
        engine = build_engine(ParallelSettings(), process, 3)
        kind = engine.accelerator.distributed_type.value
        sys.stdout.write(f"{engine.name} {process.rank}/{process.world_size} {kind}\\n")
        engine.close()
    return 0

sys.exit(run_command(main))
"""
MULTI_CPU = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_CPU
num_machines: 1
num_processes: 3
use_cpu: true
"""


def launch(tmp_path: Path, config: Path, *more: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "probe.py").write_text(PROBE)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), *more]
    return subprocess.run(
        [*command, str(tmp_path / "probe.py")], capture_output=True, text=True, timeout=120, cwd=PROJECT_ROOT
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_recipe_starts_what_it_says(tmp_path: Path, recipe: Path) -> None:
    if recipe.stem.startswith("zero"):
        pytest.importorskip("deepspeed")
    alone = recipe.stem == "single"
    done = launch(tmp_path, recipe, *([] if alone else ["--num_processes", "2"]))
    assert done.returncode == 0, done.stderr[-2000:]
    started = sorted(line.rsplit(" ", 1)[0] for line in done.stdout.splitlines() if "/" in line)
    expected = [f"{recipe.stem} {rank}/{1 if alone else 2}" for rank in range(1 if alone else 2)]
    assert started == expected


def test_cpu_processes_that_were_not_started_are_missed(tmp_path: Path) -> None:
    """Accelerate starts one process for MULTI_CPU where there is no MPI."""
    (tmp_path / "cpu.yaml").write_text(MULTI_CPU)
    done = launch(tmp_path, tmp_path / "cpu.yaml")
    assert "asked for 3 CPU processes and started one" in done.stderr
    assert "torchrun --nproc-per-node 3" in done.stderr


@pytest.fixture
def zero_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that lets the launcher name a DeepSpeed configuration file of this content."""

    def write(content: Any) -> None:
        path = tmp_path / "zero.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(path))

    return write


ZERO = {"zero_optimization": {"stage": 2, "overlap_comm": False, "reduce_bucket_size": "auto"}}
GIVEN = {
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}},
    "scheduler": {"type": "WarmupLR"},
    "bf16": {"enabled": True},
    "fp16": {"enabled": True},
    "amp": {"enabled": True},
    "torch_autocast": {"enabled": True, "dtype": "bfloat16"},
    "data_types": {"grad_accum_dtype": "bf16"},
    "gradient_clipping": 1.0,
    "gradient_accumulation_steps": 2,
    "train_batch_size": 8,
    "train_micro_batch_size_per_gpu": 1,
    "activation_checkpointing": {"partition_activations": True},
    "curriculum_learning": {"enabled": True},
    "data_efficiency": {"enabled": True},
}


@pytest.mark.parametrize("section", DECIDED_BY_RECIPE)
def test_what_the_recipe_decides_is_refused_by_name(zero_file: Any, section: str) -> None:
    zero_file(ZERO | {section: GIVEN[section]})
    with pytest.raises(
        UserError, match=rf"{section} is the recipe's to decide \({DECIDED_BY_RECIPE[section]}\)"
    ):
        launched_engine()


def test_what_is_left_open_or_off_is_not(zero_file: Any) -> None:
    pytest.importorskip("deepspeed")
    zero_file(
        ZERO
        | dict.fromkeys(DECIDED_BY_RECIPE, "auto")
        | {"fp16": {"enabled": False}, "bf16": {"enabled": "auto"}}
    )
    assert launched_engine() == "zero2"
    assert launched_zero_config() == {"zero_optimization": {"stage": 2, "overlap_comm": False}}


def test_other_sections_reach_deepspeed(zero_file: Any) -> None:
    pytest.importorskip("deepspeed")
    from scal3r_train.parallel.zero import zero_config
    from scal3r_train.parallel.zero_defaults import BUCKET_NUMEL

    zero_file(ZERO | {"comms_logger": {"enabled": True}, "steps_per_print": 7, "prescale_gradients": True})
    config = zero_config("zero2", "bf16", 3)
    assert config["comms_logger"] == {"enabled": True}
    assert config["steps_per_print"] == 7
    assert config["prescale_gradients"] is True
    assert config["zero_optimization"] == {
        "stage": 2,
        "overlap_comm": False,
        "contiguous_gradients": True,
        "reduce_bucket_size": BUCKET_NUMEL,
        "allgather_bucket_size": BUCKET_NUMEL,
    }
    assert config["gradient_accumulation_steps"] == 3
    assert config["torch_autocast"]["enabled"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ({"fp16": {"enabled": False}}, "has no zero_optimization section"),
        ({"zero_optimization": {"stage": 0}}, "ZeRO stage 0 is not supported"),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
            "with offload_optimizer is not",
        ),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}},
            "offload_param to nvme is not",
        ),
    ],
)
def test_unusable_files_are_refused(zero_file: Any, content: Any, message: str) -> None:
    zero_file(content)
    with pytest.raises(UserError, match=message) as caught:
        launched_engine()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_precision_of_the_launcher_is_refused(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    with pytest.raises(UserError, match=f"mixed_precision: {precision} .* has no effect here"):
        launched_engine()


def test_nothing_is_left_in_the_environment() -> None:
    """Accelerate writes the engine there; a later run of this process may have another."""
    from scal3r_train.parallel.accelerator import build_accelerator, release_accelerator

    before = dict(os.environ)
    accelerator = build_accelerator("fsdp2", 1)
    assert accelerator.device == torch.device("cuda" if torch.cuda.is_available() else "cpu")
    release_accelerator()
    assert dict(os.environ) == before
