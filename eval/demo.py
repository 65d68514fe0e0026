"""`make demo`: make towns, train a small Scal3R on two ranks, reconstruct videos it never saw, score them.

Everything goes through the commands a user has: `scal3r data synth`, torchrun of `scal3r_train.train`,
`reconstruct`, `score`. The table and runs/demo/results.json compare with guesses that know the true mean speed;
pictures show the trajectories from above.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from scal3r_eval.baselines import BASELINES
from scal3r_eval.subprocesses import run_shown
from scal3r_train.config import atomic_output, load_config, run_command, write_text_atomically
from scal3r_train.data.index.index import load_index
from scal3r_train.data.io.frame_io import true_world_from_cam
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.inference.reconstruct import reconstruct
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.metrics.trajectory import align_trajectory, score_trajectory
from scal3r_train.model.load_model import load_model
from scal3r_train.notes import new_console
from scal3r_train.recipe import load_training_recipe

NUM_COLUMNS = 4
RECIPE = Path("recipes/demo.yaml")
RECONSTRUCTION_RECIPE = Path("recipes/reconstruct/demo.yaml")
FOLDER = Path("runs/demo")
NUM_RANKS = 2
TOWN_SIZE = ("height=48", "width=72")
TOWNS = {
    "towns": ("num_sequences=48", "num_frames=64", "seed=11"),
    "validation": ("num_sequences=4", "num_frames=48", "seed=12"),
    "held_out": ("num_sequences=16", "num_frames=96", "seed=13"),
}


def plot_trajectories(
    path: Path, truths: Sequence[Tensor], estimates: Sequence[Tensor], ate_percents: Sequence[float]
) -> None:
    """Draw each truth and its estimate after Sim(3) alignment, seen from above (x, y of a world with z up).

    Args:
        path: PNG to write.
        truths, estimates: world_from_cam [S, 3, 4].
        ate_percents: the title of each picture.
    """
    num_rows = -(-len(truths) // NUM_COLUMNS)
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(3 * NUM_COLUMNS, 3 * num_rows), layout="constrained")
        for place, (truth, estimate, error) in enumerate(zip(truths, estimates, ate_percents, strict=True)):
            axes = figure.add_subplot(num_rows, NUM_COLUMNS, place + 1)
            centres = estimate[:, :, 3].double()
            aligned = align_trajectory(estimate.double(), truth, "sim3").apply(centres)
            axes.plot(truth[:, 0, 3], truth[:, 1, 3], color="black", linewidth=1, label="truth")
            axes.plot(aligned[:, 0], aligned[:, 1], color="tab:orange", linewidth=1, label="ours")
            axes.set_aspect("equal", adjustable="datalim")
            axes.set_title(f"ATE {error:.2f} % of path")
            if place == 0:
                axes.legend()
        with atomic_output(path) as temporary:
            figure.savefig(temporary, dpi=110)


def main(console: Console) -> int:
    """Run the demo in runs/demo; finished stages are not repeated."""
    started = time.perf_counter()
    console.rule("1/4 making towns")
    for name, settings in TOWNS.items():
        console.print(f"  {FOLDER / name}: {' '.join(settings)}")
        run_shown("scal3r_train.cli", "data", "synth", str(FOLDER / name), *settings, *TOWN_SIZE)
    console.rule(f"2/4 training on {NUM_RANKS} ranks ({RECIPE})")
    checkpoint = load_training_recipe(RECIPE).model.checkpoint
    if checkpoint is not None:
        console.print(
            f"going on from the shipped checkpoint {checkpoint}, which its README.md says how to make"
        )
    launcher = ("torch.distributed.run", "--standalone", f"--nproc-per-node={NUM_RANKS}", "-m")
    run_shown(*launcher, "scal3r_train.train", str(RECIPE))
    console.rule("3/4 reconstructing videos it has not seen")
    index = load_index(FOLDER / "held_out" / "index.parquet")
    records = [index[row] for row in range(len(index))]
    estimates = reconstruct_all(records, console)
    console.rule("4/4 scoring")
    results, scores = score_all(records, estimates)
    results["seconds"] = round(time.perf_counter() - started, 1)
    write_text_atomically(FOLDER / "results.json", json.dumps(results, indent=1) + "\n")
    plot_trajectories(FOLDER / "trajectories.png", [_truth(record) for record in records], estimates, scores)
    _print_results(console, results)
    return 0


def reconstruct_all(records: Sequence[SequenceRecord], console: Console) -> list[torch.Tensor]:
    """Reconstruct each video with the trained model and return its world_from_cam [S, 3, 4]."""
    recipe = load_config(ReconstructionRecipe, RECONSTRUCTION_RECIPE, ["export.overwrite=true"])
    model = load_model(FOLDER / "model", torch.device("cpu"))
    estimates = []
    for record in records:
        scene = reconstruct(record, model, recipe, FOLDER / "scenes" / record.sequence_id)
        assert scene is not None, "the demo reconstructs in one process"
        estimates.append(scene.world_from_cam)
        console.print(f"  {FOLDER / 'scenes' / record.sequence_id}: {len(scene.world_from_cam)} frames")
    return estimates


def score_all(
    records: Sequence[SequenceRecord], estimates: Sequence[torch.Tensor]
) -> tuple[dict[str, object], list[float]]:
    """Return the results, means over the sequences, and our ate_percent of each sequence."""
    methods: dict[str, list[float]] = {"ours": []}
    for record, estimate in zip(records, estimates, strict=True):
        truth = _truth(record)
        methods["ours"].append(ate_percent(estimate, truth))
        for name, baseline in BASELINES.items():
            methods.setdefault(name, []).append(ate_percent(baseline(truth), truth))
    results: dict[str, object] = {"num_sequences": len(records)}
    for name, values in methods.items():
        results[name] = {"ate_percent": sum(values) / len(values)}
    return results, methods["ours"]


def ate_percent(estimate: torch.Tensor, truth: torch.Tensor) -> float:
    """Return the ATE after Sim(3) alignment in percent of the true path length; world_from_cam [S, 3, 4] each."""
    percent = score_trajectory(estimate, truth, "sim3").ate_percent
    assert percent is not None, "towns are driven through"
    return percent


def _truth(record: SequenceRecord) -> torch.Tensor:
    assert record.cam_from_world is not None, "towns have exact poses"
    return true_world_from_cam(record)


def _print_results(console: Console, results: dict[str, object]) -> None:
    table = Table(title=f"{results['num_sequences']} held-out videos: position error after Sim(3) alignment")
    table.add_column("method")
    table.add_column("ATE, % of path", justify="right")
    for name in ("ours", *BASELINES):
        entry = results[name]
        assert isinstance(entry, dict)
        table.add_row(
            name.replace("_", " "), f"{entry['ate_percent']:.2f}", style="bold" if name == "ours" else ""
        )
    console.print(table)
    console.print(f"{results['seconds']} s; {FOLDER}/results.json, trajectories.png, scenes/*/points.ply")


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit("usage: python -m scal3r_eval.demo; it takes no arguments")
    sys.exit(run_command(lambda: main(new_console())))
