"""Pictures of trajectories from above."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from torch import Tensor

from scal3r_train.config import atomic_output
from scal3r_train.metrics.trajectory import align_trajectory

NUM_COLUMNS = 4


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
