"""Which runs are recorded, each as commands that a user has. All work in one folder with one set of towns."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.conftest import LIMIT_S, PROJECT_ROOT
from tests.golden.output_files import export_hashes, point_statistics, sha256_of_weights, steps_of, table
from tests.golden.recording import THREADS, Outcome

COMMAND, TRAINING = "scal3r_train.cli", "scal3r_train.train"
TORCHRUN = [
    *("-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"),
    *("--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"),
]
run_python = subprocess.run  # for one process; tests put cheaper ones in its place
SETTINGS = THREADS | {"HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo"}

# Where the debug recipes look for their towns; of the size that scal3r-tiny was trained for.
TOWNS = Path("runs/debug/towns")
TOWN = "town_021_00000"
CHECKPOINT = "model.checkpoint=assets/scal3r-tiny"
RECONSTRUCTION = ("recipes/reconstruct/demo.yaml", CHECKPOINT)
FORMATS = {"colmap": "", "nerfstudio": "", "ply": ".ply", "glb": ".glb", "tum": ".txt", "kitti": ".txt"}

THIRTY_STEPS = ("optim.num_steps=30", "validation.every=0", "checkpoint.every=30", "telemetry.log_every=1")
MEMORIES_ONLY = ("model.train=memories", "model.network=null", "model.checkpoint=runs/cpu/model", "seed=1")
# The quick runs of tests/parallel/engine_runs.py: two ranks share four chunks.
ENGINES = ("ddp", "zero1", "zero2", "zero3", "zero3_offload", "fsdp2")
OF_AN_ENGINE = (
    *("curriculum.group_size.1=0", "curriculum.chunks_per_rank.1=0"),
    *("curriculum.chunk_size.6=0", "curriculum.overlap.2=0"),
    *("optim.memory_lr=1e-4", "optim.backbone_lr=1e-4", "optim.ema_decay=0.9"),
)


@dataclass(frozen=True)
class Run:
    """One recorded run: `make(workspace)` does it and gives what came out."""

    name: str
    make: Callable[[Path], Outcome]
    slow: bool = True
    needs: str | None = None  # an optional package


def all_runs() -> dict[str, Run]:
    """Return all recorded runs by name."""
    runs = [
        Run("train_cpu", partial(train, "cpu", "recipes/debug/cpu.yaml"), slow=False),
        Run("train_long_curriculum", partial(train, "long", "recipes/debug/long_curriculum.yaml")),
        Run("train_memories", train_memories),
        Run("train_two_ranks", partial(train, "two_ranks", "recipes/debug/two_ranks.yaml", num_ranks=2)),
        *(engine_run(engine) for engine in ENGINES),
        Run("reconstruct", reconstruct_and_export, slow=False),
        Run("reconstruct_two_ranks", partial(reconstruct, "two_ranks", num_ranks=2)),
        Run("reconstruct_follow", follow),
    ]
    return {run.name: run for run in runs}


def engine_run(engine: str) -> Run:
    """Return the run of one engine on two ranks."""
    words = ("recipes/debug/two_ranks.yaml", f"parallel.engine={engine}", *OF_AN_ENGINE)
    needs = "deepspeed" if engine.startswith("zero") else None
    return Run(f"engine_{engine}", partial(train, f"engine_{engine}", *words, num_ranks=2), needs=needs)


def make_workspace(folder: Path) -> Path:
    """Return a folder in which the commands of all runs work: recipes, the small checkpoint and towns."""
    for name in ("recipes", "assets"):
        (folder / name).symlink_to(PROJECT_ROOT / name)
    size = ("num_sequences=4", "num_frames=48", "height=48", "width=72")
    call(folder, COMMAND, "data", "synth", TOWNS, *size, "seed=21", "num_workers=1")
    return folder


def call(workspace: Path, module: str, *words: object, num_ranks: int = 1) -> str:
    """Run a command in the workspace and return it as one line; its complaints become ours."""
    launcher = TORCHRUN if num_ranks > 1 else []
    command = [sys.executable, *launcher, "-m", module, *map(str, words)]
    paths = [str(PROJECT_ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = os.environ | SETTINGS | {"PYTHONPATH": os.pathsep.join(paths)}
    run = subprocess.run if launcher else run_python
    done = run(command, cwd=workspace, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr[-5000:]}"
    return " ".join(["python", *command[1:]])


def train(name: str, recipe: str, *changes: str, workspace: Path, num_ranks: int = 1) -> Outcome:
    """Train 30 steps: loss and gradient norm of each, and the hash of every model that is left."""
    folder = Path("runs") / name
    words = (recipe, f"output_dir={folder}", *changes, *THIRTY_STEPS)
    command = call(workspace, TRAINING, *words, num_ranks=num_ranks)
    models = sorted((workspace / folder).glob("model*/model.safetensors"))
    hashes = {f"weights of {path.parent.name}": sha256_of_weights(path) for path in models}
    return Outcome([command], hashes, steps_of(workspace / folder, "loss", "grad_norm"))


def train_memories(workspace: Path) -> Outcome:
    """Train the memories alone, from the model that the run train_cpu leaves."""
    if not (workspace / "runs/cpu/model").exists():
        train("cpu", "recipes/debug/cpu.yaml", workspace=workspace)
    return train("memories", "recipes/debug/cpu.yaml", *MEMORIES_ONLY, workspace=workspace)


def reconstruct(name: str, workspace: Path, num_ranks: int = 1) -> Outcome:
    """Reconstruct a town from its index."""
    scene = Path("runs/scenes") / name
    words = ("reconstruct", f"{TOWNS}/index.parquet#{TOWN}", scene, *RECONSTRUCTION)
    command = call(workspace, COMMAND, *words, num_ranks=num_ranks)
    return scene_outcome(command, workspace / scene)


def follow(workspace: Path) -> Outcome:
    """Reconstruct the same frames as if they came one by one; all are there, so that no clock matters."""
    frames, scene = Path("runs/frames"), Path("runs/scenes/follow")
    shutil.copytree(workspace / TOWNS / TOWN / "rgb", workspace / frames)
    (workspace / frames / "STOP").touch()
    command = call(workspace, COMMAND, "reconstruct", frames, scene, *RECONSTRUCTION, "--follow")
    return scene_outcome(command, workspace / scene)


def scene_outcome(command: str, scene: Path) -> Outcome:
    """Return what is recorded of a scene folder."""
    files = {"trajectory": "trajectory.tum", "intrinsics": "intrinsics.txt", "points": "points.ply"}
    hashes = {name: export_hashes(scene / file)[file] for name, file in files.items()}
    numbers = {name: table(scene / files[name]) for name in ("trajectory", "intrinsics")}
    return Outcome([command], hashes, {**numbers, **point_statistics(scene / files["points"])})


def reconstruct_and_export(workspace: Path) -> Outcome:
    """Reconstruct on one process, and export the scene in every format."""
    outcome = reconstruct("one", workspace)
    for kind, suffix in FORMATS.items():
        output = Path("runs/exports") / f"{kind}{suffix}"
        command = call(workspace, COMMAND, "export", "runs/scenes/one", output, "--to", kind)
        outcome.commands.append(command)
        outcome.sha256 |= {
            f"{kind} {file}": digest for file, digest in export_hashes(workspace / output).items()
        }
        if kind in ("tum", "kitti"):
            outcome.numbers[kind] = table(workspace / output)
    return outcome
