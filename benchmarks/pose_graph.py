"""The pose graph's speed on chains with loops, and its optimum on SE(3) graphs with a known one.

    python -m benchmarks.pose_graph [--graphs ../shared/data/pose_graphs]

Chains: a drive round a circuit, again and again, whose seams have 0.5 % noise of scale, 0.3 degrees and 0.5 % of the
step; loop edges between the same places of different laps. Time is processor time and wall time, the median of
`--repeats` solves (of 3 for g2o graphs).
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from pathlib import Path

import torch

from scal3r_train.geometry import sim3_tangent
from scal3r_train.geometry.sim3 import Sim3Batch
from scal3r_train.inference.loop_closure.pose_graph import PoseEdges, optimise_pose_graph
from scal3r_train.inference.loop_closure.settings import PoseGraphSettings
from tests.inference.loop_closure.g2o import read_g2o

NOISE = torch.tensor([0.05, 0.05, 0.05, 0.005, 0.005, 0.005, 0.005], dtype=torch.float64)
STEP_M = 10.0


def circuit(num_nodes: int, num_loops: int, seed: int = 0) -> tuple[Sim3Batch, Sim3Batch, PoseEdges]:
    """(truth, chained initial guess, edges) of a drive of about `num_loops` / 5 laps of a wavy circle."""
    generator = torch.Generator().manual_seed(seed)
    num_laps = max(1.25, num_loops / 5)
    angle = torch.arange(num_nodes, dtype=torch.float64) * (2 * math.pi * num_laps / num_nodes)
    radius = STEP_M * num_nodes / (2 * math.pi * num_laps)
    tangent = torch.zeros(num_nodes, 7, dtype=torch.float64)
    tangent[:, 4] = -(angle % (2 * math.pi))
    tangent[:, 6] = 0.7 * (2 * torch.rand(num_nodes, generator=generator, dtype=torch.float64) - 1)
    turned = sim3_tangent.exp(tangent)
    place = torch.stack([radius * angle.cos(), 2 * (3 * angle).sin(), radius * angle.sin()], dim=1)
    truth = Sim3Batch(turned.scale, turned.rotation, place)
    lap = round(num_nodes / num_laps)
    starts = torch.linspace(0, num_nodes - lap - 2, num_loops).long()
    i = torch.cat([torch.arange(num_nodes - 1), starts])
    j = torch.cat([torch.arange(1, num_nodes), starts + lap])
    noise = NOISE * torch.randn(len(i), 7, generator=generator, dtype=torch.float64)
    measured = truth.take(i).inverse() @ truth.take(j) @ sim3_tangent.exp(noise)
    robust = torch.arange(len(i)) >= num_nodes - 1
    information = torch.diag(NOISE**-2).expand(len(i), 7, 7).clone()
    nodes = [truth.unstack()[0]]
    for sim3 in measured.unstack()[: num_nodes - 1]:
        nodes.append(nodes[-1] @ sim3)
    return truth, Sim3Batch.stack(nodes), PoseEdges(i, j, measured, information, robust)


def report(name: str, nodes: Sim3Batch, edges: PoseEdges, repeats: int) -> None:
    """Solve `repeats` times and print a line."""
    cpu, wall = [], []
    for _ in range(repeats):
        begin_cpu, begin = time.process_time(), time.perf_counter()
        result = optimise_pose_graph(nodes, edges, PoseGraphSettings())
        cpu.append(1e3 * (time.process_time() - begin_cpu))
        wall.append(1e3 * (time.perf_counter() - begin))
    print(
        f"{name:<28} {len(nodes):>6} {len(edges.i):>6} {statistics.median(cpu):>9.1f} {statistics.median(wall):>9.1f}"
        f" {result.num_iterations:>5} {result.cost_before:>12.4f} {result.cost_after:>12.6f}  {result.reason}"
    )


def main() -> None:
    """Print one line for every graph."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--graphs", type=Path, default=Path("../shared/data/pose_graphs"))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print(
        f"{'graph':<28} {'nodes':>6} {'edges':>6} {'cpu ms':>9} {'wall ms':>9} {'steps':>5} {'before':>12} {'after':>12}"  # noqa: E501
    )
    for num_nodes, num_loops in ((300, 10), (5000, 50)):
        _, nodes, edges = circuit(num_nodes, num_loops)
        report(f"Sim(3) chain, {num_loops} loops", nodes, edges, arguments.repeats)
    for path in sorted(arguments.graphs.glob("*.g2o")):
        report(f"SE(3) {path.name}", *read_g2o(path), 3)


if __name__ == "__main__":
    main()
