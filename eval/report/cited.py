"""The paper's own numbers for a benchmark (Scal3R, arXiv 2604.08542), to stand beside ours: cited, never measured here.

Poses and resources are its table 1 (RRE in deg/100 m, RTE in m/100 m, ATE in m after Sim(3)), points its table 2
(Chamfer in m, F1 at the benchmark's threshold), the three sets of the supplement state ATE alone. Runtime is its study
of one sequence cut to several lengths; our notes on the paper do not name it, and it stands with KITTI's resources.
"""

from __future__ import annotations

from scal3r_eval.measures import SCORES
from scal3r_eval.report.text import CITED, Cell, Table, cited_cell

SOURCE = "Scal3R, arXiv 2604.08542"
POSE_KEYS = ("rre_deg_per_100m", "rte_m_per_100m", "ate_rmse_m")
POINT_KEYS = ("chamfer_m", "f1")

POSES: dict[str, dict[str, tuple[float, float, float]]] = {
    "vkitti2": {
        "MASt3R-SLAM": (15.81, 70.48, 78.33),
        "VGGT-SLAM": (12.92, 21.27, 17.18),
        "StreamVGGT": (13.47, 58.07, 68.97),
        "STream3R": (13.46, 76.06, 70.87),
        "CUT3R": (7.93, 40.42, 50.75),
        "TTT3R": (5.88, 16.34, 23.49),
        "FastVGGT": (3.13, 38.64, 21.83),
        "VGGT-Long": (0.71, 2.01, 1.03),
        "COLMAP": (2.53, 7.63, 9.09),
        "MASt3R-SfM": (18.28, 23.79, 40.57),
        "DROID-SLAM": (26.90, 41.41, 2.47),
        "DPVO++": (0.07, 0.39, 0.48),
        "Scal3R": (0.41, 0.78, 0.85),
    },
    "kitti": {
        "MASt3R-SLAM": (22.42, 67.72, 191.71),
        "VGGT-SLAM": (33.27, 78.95, 214.88),
        "StreamVGGT": (24.06, 84.46, 226.15),
        "STream3R": (24.06, 81.63, 227.77),
        "CUT3R": (24.24, 73.65, 209.78),
        "TTT3R": (21.90, 68.55, 177.73),
        "FastVGGT": (22.47, 69.58, 206.69),
        "VGGT-Long": (1.71, 9.67, 25.94),
        "COLMAP": (0.62, 15.88, 37.79),
        "MASt3R-SfM": (25.43, 53.70, 171.28),
        "DROID-SLAM": (25.38, 58.37, 50.71),
        "DPVO++": (0.23, 15.17, 52.69),
        "Scal3R": (0.97, 4.61, 14.55),
    },
    "oxford_spires": {
        "MASt3R-SLAM": (59.67, 29.82, 29.22),
        "VGGT-SLAM": (55.60, 32.14, 26.85),
        "StreamVGGT": (71.28, 37.14, 34.35),
        "STream3R": (71.29, 36.65, 34.65),
        "CUT3R": (54.69, 32.15, 28.01),
        "TTT3R": (62.68, 35.51, 31.57),
        "FastVGGT": (65.35, 37.55, 31.18),
        "VGGT-Long": (30.91, 20.79, 15.46),
        "COLMAP": (0.32, 0.24, 0.15),
        "MASt3R-SfM": (25.83, 28.60, 25.83),
        "DROID-SLAM": (23.97, 45.11, 23.97),
        "DPVO++": (29.17, 30.71, 29.17),
        "Scal3R": (7.87, 6.55, 4.45),
    },
}
POINTS: dict[str, dict[str, tuple[float, float]]] = {
    "eth3d": {
        "MASt3R-SLAM": (0.89, 0.31),
        "VGGT-SLAM": (0.78, 0.72),
        "StreamVGGT": (1.86, 0.14),
        "STream3R": (1.81, 0.14),
        "CUT3R": (0.41, 0.60),
        "TTT3R": (0.43, 0.59),
        "FastVGGT": (0.50, 0.70),
        "VGGT-Long": (0.24, 0.84),
        "Scal3R": (0.11, 0.91),
    },
    "oxford_spires": {
        "MASt3R-SLAM": (7.78, 0.53),
        "VGGT-SLAM": (10.16, 0.22),
        "StreamVGGT": (12.23, 0.25),
        "STream3R": (12.20, 0.25),
        "CUT3R": (6.93, 0.45),
        "TTT3R": (9.03, 0.31),
        "FastVGGT": (2.76, 0.76),
        "VGGT-Long": (3.41, 0.80),
        "Scal3R": (0.96, 0.96),
    },
    "vkitti2": {
        "MASt3R-SLAM": (17.08, 0.33),
        "VGGT-SLAM": (9.74, 0.57),
        "StreamVGGT": (20.45, 0.35),
        "STream3R": (18.77, 0.36),
        "CUT3R": (5.67, 0.39),
        "TTT3R": (3.49, 0.49),
        "FastVGGT": (1.73, 0.67),
        "VGGT-Long": (1.78, 0.70),
        "Scal3R": (0.40, 0.91),
    },
}
ATE_ALONE = {"scannet_pp": 0.08, "tum": 0.07, "waymo": 1.52}
KITTI_00 = {"VGGT-Long": (1.416, 4.717, 8.637), "Scal3R": (0.639, 1.898, 4.298)}  # as POSES
# Its table 3, as POSES: what the global context is worth. Of other settings than table 1, so no scale for ours.
ABLATION = {
    "Scal3R": (1.17, 5.99, 13.70),
    "without GCS": (1.28, 7.01, 15.80),
    "without GCM": (1.30, 7.03, 19.00),
}
# Memory in GB, time in s, frames a second: means over KITTI 03, 04 and 10 on one RTX 4090, FastVGGT's on an A800.
RESOURCES_OF = "kitti"
RESOURCES = {
    "MASt3R-SLAM": (6.74, 99.30, 7.37),
    "VGGT-SLAM": (10.67, 39.72, 19.85),
    "StreamVGGT": (6.66, 32.61, 23.14),
    "STream3R": (4.70, 111.23, 8.19),
    "CUT3R": (6.50, 22.96, 32.87),
    "TTT3R": (4.59, 23.65, 31.95),
    "FastVGGT": (22.58, 48.13, 18.22),
    "VGGT-Long": (11.77, 168.83, 4.80),
    "COLMAP": (0.0, 6614.73, 0.17),
    "MASt3R-SfM": (8.04, 2766.76, 0.27),
    "DROID-SLAM": (10.29, 56.14, 13.58),
    "DPVO++": (0.89, 20.71, 35.35),
    "Scal3R": (10.32, 300.76, 2.53),
}
RUNTIME_S = {150: 51.19, 990: 382.80}  # frames -> seconds of Scal3R
RUNTIME_RPE_M = (0.07, 0.08)  # from, to: of all lengths of that study
BENCHMARKS = frozenset((*POSES, *POINTS, *ATE_ALONE))
KNOWN_INTRINSICS = ("DROID-SLAM", "DPVO++")


def cited_metrics(benchmark: str | None) -> dict[str, dict[str, float]]:
    """Return method -> metric -> number that the paper states for a benchmark; empty for one it does not have."""
    found: dict[str, dict[str, float]] = {}
    if benchmark is None:
        return found
    for method, pose_values in POSES.get(benchmark, {}).items():
        found.setdefault(method, {}).update(zip(POSE_KEYS, pose_values, strict=True))
    for method, point_values in POINTS.get(benchmark, {}).items():
        found.setdefault(method, {}).update(zip(POINT_KEYS, point_values, strict=True))
    if benchmark in ATE_ALONE:
        found["Scal3R"] = {"ate_rmse_m": ATE_ALONE[benchmark]}
    return found


def cited_sequence_metrics(benchmark: str | None, sequence: str) -> dict[str, dict[str, float]]:
    """Return method -> metric -> number that the paper states for one sequence of a benchmark."""
    if (benchmark, sequence) != ("kitti", "00"):
        return {}
    return {method: dict(zip(POSE_KEYS, values, strict=True)) for method, values in KITTI_00.items()}


def cited_table(benchmark: str | None) -> Table:
    """Return all that the paper states for a benchmark, resources included where they are of it."""
    cited = cited_metrics(benchmark)
    measures = [measure for measure in SCORES if any(measure.key in row for row in cited.values())]
    has_resources = benchmark == RESOURCES_OF
    rows = [
        (
            Cell(name, is_cited=True),
            *(cited_cell(row.get(measure.key)) for measure in measures),
            *(map(cited_cell, RESOURCES[name]) if has_resources else ()),
        )
        for name, row in cited.items()
    ]
    notes = []
    if has_resources:
        notes.append(
            "Memory, seconds and frames/s are means over KITTI 03, 04 and 10 on one RTX 4090, FastVGGT's on an A800."
        )
    if any(name in cited for name in KNOWN_INTRINSICS):
        notes.append(f"{' and '.join(KNOWN_INTRINSICS)} are given the cameras' intrinsics.")
    head = (
        "method",
        *(measure.title for measure in measures),
        *(("memory (GB)", "seconds", "frames/s") if has_resources else ()),
    )
    return Table(f"The paper's numbers ({CITED}, not measured here)", head, tuple(rows), " ".join(notes))


def ablation_table(benchmark: str | None) -> Table:
    """Return what the paper's global context is worth by its table 3; no rows for other benchmarks than KITTI."""
    measures = [next(one for one in SCORES if one.key == key) for key in POSE_KEYS]
    rows = tuple(
        (Cell(name, is_cited=True), *map(cited_cell, values))
        for name, values in (ABLATION if benchmark == "kitti" else {}).items()
    )
    note = (
        "For reference alone: trained and run under settings of its own, as its full model's 13.70 m against 14.55 m "
        "of the paper's table 1 shows. Our notes on the paper do not name the set; by the size of its numbers it is "
        "KITTI."
    )
    head = ("method", *(measure.title for measure in measures))
    return Table(f"The paper's ablation, table 3 ({CITED}, not measured here)", head, rows, note)
