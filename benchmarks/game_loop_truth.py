"""Drift of the alignment on game_loop with chunk predictions made from its ground truth, and what closing loops does.

python -m benchmarks.game_loop_truth [--folder ../shared/data/game_loop]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from scal3r_train.inference.alignment.seam import chain
from scal3r_train.inference.loop_closure.edges import close_loops
from scal3r_train.inference.loop_closure.settings import LoopEdgeSettings
from scal3r_train.metrics.trajectory import score_trajectory
from tests.inference.loop_closure.truth_chunks import drive, read_truth

FIRST_FRAMES, FALSE_PLACES, MIN_GAP = (20, 60, 100), (300, 900), 700


def main() -> None:
    """Print the error of the trajectory with and without loops, and all verdicts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("../shared/data/game_loop"))
    settings = LoopEdgeSettings()
    whole = drive(read_truth(parser.parse_args().folder))
    pairs = [(first, whole.truth.closest_later_frame(first, MIN_GAP)) for first in FIRST_FRAMES]
    edges = [whole.loop_edge(*pair, settings) for pair in pairs]
    edges.append(whole.loop_edge(*FALSE_PLACES, settings, moved=whole.onto(*FALSE_PLACES)))
    closed, report = close_loops(whole.seams, edges, whole.ranges, settings)
    guard_off = settings.model_copy(update={"max_chain_deviation": 1e9, "max_scale_ratio": 1e9})
    outvoted, second_report = close_loops(whole.seams, edges, whole.ranges, guard_off)
    placements = {"without loops": chain(whole.seams), "with loops": closed, "chain guard off": outvoted}
    for name, placed in placements.items():
        score = score_trajectory(whole.trajectory(placed), whole.truth.world_from_cam)
        print(
            f"{name:<16} ATE {score.ate_rmse_m:7.3f} m = {score.ate_percent:.4f} % of {score.path_length_m:.0f} m"
        )
    for name, said in (("all guards", report), ("chain guard off", second_report)):
        print(f"{name}: {said.as_dict()}")
        for pair, edge in zip([*pairs, FALSE_PLACES], said.edges, strict=True):
            verdict = "accepted" if edge.accepted else "rejected"
            print(
                f"  frames {pair} chunks ({edge.a}, {edge.c}) {verdict}: {edge.reason}"
                f" [deviation {edge.chain_deviation}, scale {edge.scale_ratio}, weight {edge.weight}]"
            )


if __name__ == "__main__":
    main()
