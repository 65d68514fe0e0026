"""Which loops are believed on noisy models, and what that does to the path: curves over noise and outliers.

    python -m benchmarks.loop_curves --data ../shared/data [--scenes game_loop,kitchen,streets] [--picture FILE.svg]

Chunks are made from the truth of game_loop, of seven_scenes_kitchen, and of a closed-form town of equal streets, with
independent noise of every depth, outliers, a bias of all depths of a chunk, and a bend of its path; every chunk has a
scale of its own between 0.3 and 3. `alike` makes bias and bend the same in all chunks, which no seam can show.

A line a case: `true`, loops that are there; `helpful`, of those, the ones whose edge by itself lowers the error of the
path; `accepted` and `both`, of the true and of the helpful ones. `wrong`: joint predictions of a fooled network, whose
windows fit their chunks as well as any (kinds in `tests/inference/loop_closure/loop_scenes.py`), and how many of them
were accepted: among all true ones, and each alone without any true one (two streets that agree with each other are also
tried as a pair). Then the ATE by seams alone, with what was believed, and with all true loops closed without any check.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scal3r_train.inference.alignment.seam import chain
from scal3r_train.inference.loop_closure.common_view import common_view_share
from scal3r_train.inference.loop_closure.edges import LoopEdge, close_loops
from scal3r_train.inference.loop_closure.settings import LoopEdgeSettings, LoopSettings, PoseGraphSettings
from scal3r_train.metrics.trajectory import score_trajectory
from tests.inference.loop_closure.loop_scenes import Fooled, Scene, fooled_predictions, scenes
from tests.inference.loop_closure.truth_chunks import Drive, Errors

SETTINGS = LoopEdgeSettings()
NO_CHECKS = LoopEdgeSettings(
    max_scale_ratio=1e9,
    max_chain_deviation=1e9,
    min_agreeing=0,
    graph=PoseGraphSettings(robust=False, kernel_width=1e9),
)
SCALES = {"least_scale": 0.3, "largest_scale": 3.0}
CASES = [
    *(
        (f"noise {noise:.0%}, outliers {outliers:.0%}", Errors(depth=noise, outliers=outliers, **SCALES))
        for noise in (0.01, 0.02, 0.05, 0.10)
        for outliers in (0.0, 0.2, 0.3)
    ),
    ("noise 1%, bias 3%", Errors(bias=0.03, **SCALES)),
    ("noise 1%, bend 1 deg", Errors(bend_deg=1.0, **SCALES)),
    ("noise 5%, outliers 20%, both", Errors(depth=0.05, outliers=0.2, bias=0.03, bend_deg=1.0, **SCALES)),
    ("noise 1%, bias 3% alike", Errors(bias=0.03, alike=True, **SCALES)),
    ("noise 1%, bend 1 deg alike", Errors(bend_deg=1.0, alike=True, **SCALES)),
]


@dataclass(frozen=True)
class Line:
    """What was found in one case."""

    case: str
    helpful: tuple[bool, ...]
    accepted: tuple[bool, ...]
    num_wrong: int
    wrong_among_true: int
    wrong_alone: int
    ate_m: tuple[float, float, float]  # seams alone, with what was believed, with all true loops

    def as_text(self) -> str:
        """One line of the table."""
        both = sum(one and other for one, other in zip(self.helpful, self.accepted, strict=True))
        counts = (len(self.helpful), sum(self.helpful), sum(self.accepted), both, self.num_wrong)
        wrong = (self.wrong_among_true, self.wrong_alone)
        return (
            f"{self.case:<29}"
            + "".join(f"{value:>9}" for value in counts + wrong)
            + "".join(f"{value:>10.4f}" for value in self.ate_m)
        )


def main() -> None:
    """Print a table for every scene, and draw the picture where one is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--scenes", default="game_loop,kitchen,streets")
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    drawn: dict[str, list[Line]] = {}
    for scene in scenes(args.data):
        if scene.name not in args.scenes.split(","):
            continue
        heads = ("true", "helpful", "accepted", "both", "wrong", "among", "alone")
        print(
            f"{scene.name:<29}"
            + "".join(f"{head:>9}" for head in heads)
            + "  ATE seams     closed       all",
            flush=True,
        )
        drawn[scene.name] = []
        for case, errors in CASES:
            drawn[scene.name].append(measure(scene, case, errors))
            print(drawn[scene.name][-1].as_text(), flush=True)
    if args.picture:
        draw(drawn, args.picture)


def measure(scene: Scene, case: str, errors: Errors) -> Line:
    """Predict, align, judge and close under some errors."""
    whole = scene.drive(errors)
    true_edges = [whole.loop_edge(*pair, SETTINGS) for pair in scene.true_pairs]
    least = LoopSettings().min_common_view
    for place, pair in enumerate(scene.true_pairs):
        if common_view_share(whole.joint_prediction(*pair), 2 * scene.half_window) < least:
            true_edges[place] = replace(true_edges[place], accepted=False)
    fooled = fooled_predictions(scene, whole)
    wrong = [whole.loop_edge(*one.pair, SETTINGS, moved=one.moved, factor=one.factor) for one in fooled]
    sets = [*([edge] for edge in wrong), pair_of_streets(fooled, wrong)]
    among = close_loops(whole.seams, true_edges + wrong, whole.ranges, SETTINGS)[1].edges[len(true_edges) :]
    alone = [close_loops(whole.seams, edges, whole.ranges, SETTINGS)[1].num_accepted for edges in sets]
    closed, report = close_loops(whole.seams, true_edges, whole.ranges, SETTINGS)
    without = ate(whole, chain(whole.seams))
    return Line(
        case,
        tuple(unchecked(whole, [edge]) < without for edge in true_edges),
        tuple(edge.accepted for edge in report.edges),
        len(wrong),
        sum(edge.accepted for edge in among),
        sum(alone),
        (without, ate(whole, closed), unchecked(whole, true_edges)),
    )


def pair_of_streets(fooled: Sequence[Fooled], edges: Sequence[LoopEdge]) -> list[LoopEdge]:
    """Return the wrong edges that agree with each other."""
    return [edge for one, edge in zip(fooled, edges, strict=True) if one.kind == "street like it"]


def unchecked(whole: Drive, edges: Sequence[LoopEdge]) -> float:
    """Return the ATE in metres with edges closed whatever speaks against them."""
    believed = [replace(edge, accepted=True) for edge in edges]
    return ate(whole, close_loops(whole.seams, believed, whole.ranges, NO_CHECKS)[0])


def ate(whole: Drive, placed: Sequence) -> float:  # type: ignore[type-arg]
    """Return the ATE of the path in metres."""
    return score_trajectory(whole.trajectory(placed), whole.truth.world_from_cam).ate_rmse_m


def draw(lines: dict[str, list[Line]], file: Path) -> None:
    """Draw the ATE of every case: by seams alone, with what was believed, with all true loops."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "loop_curves"
    figure, axes = plt.subplots(1, len(lines), figsize=(4.2 * len(lines), 5), squeeze=False, sharey=True)
    for axis, (name, of_scene) in zip(axes[0], lines.items(), strict=True):
        places = range(len(of_scene))
        for which, (label, marker) in enumerate(
            (("seams alone", "x"), ("closed", "o"), ("all true loops", "."))
        ):
            axis.semilogx([line.ate_m[which] for line in of_scene], places, marker, label=label)
        axis.set(title=name, xlabel="ATE [m]", yticks=list(places))
        axis.grid(alpha=0.3)
    axes[0][0].set_yticklabels([line.case for line in next(iter(lines.values()))])
    axes[0][0].invert_yaxis()
    axes[0][-1].legend()
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
