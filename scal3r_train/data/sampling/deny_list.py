"""Scenes that benchmarks are scored on: they are kept out of training, and every checkpoint says so.

A sequence is denied if its index says that it is of a test or validation split, or if a rule below names it, whatever
split an index gives it. Raise VERSION with every change.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

VERSION = 3
DENIED_SPLITS = ("test", "val")

# KITTI odometry's sequences 00-10 are these recordings of KITTI raw (development kit, readme.txt).
KITTI_ODOMETRY_DRIVES = (
    r"2011_10_03_drive_00(27|34|42)",
    r"2011_09_26_drive_0067",
    r"2011_09_30_drive_00(16|18|20|27|28|33|34)",
)

# Layouts that hold any set: there the folders of a sequence must tell, in small letters without punctuation.
LAYOUTS = frozenset(("colmap", "cut3r", "nerfstudio", "vggt_omega", "wai"))
FOLDERS = frozenset(
    (
        *(
            "kittiodometry",
            "oxfordspires",
            "spires",
            "eth3d",
            "tum",
            "tumrgbd",
            "tumdynamics",
            "euroc",
            "eurocmav",
        ),
        *("7scenes", "sevenscenes", "waymo", "waymoopen"),
    )
)


@dataclass(frozen=True)
class Rule:
    """Sequences of one data set, by a pattern that their sequence_id holds, and why."""

    dataset: str
    pattern: str
    reason: str


RULES = (
    Rule("kitti_odometry", "", "KITTI odometry is scored on"),
    *(Rule("kitti_raw", pattern, "a drive of KITTI odometry") for pattern in KITTI_ODOMETRY_DRIVES),
    Rule("oxford_spires", "", "Oxford Spires is scored on"),
    Rule("eth3d", "", "ETH3D is scored on"),
    Rule("tum", "", "TUM RGB-D is scored on"),
    Rule("euroc", "", "EuRoC is scored on"),
    Rule("vbr", "", "VBR is scored on"),
    Rule("spatialbench", "", "SpatialBench is scored on"),
    Rule("seven_scenes", "", "7-Scenes is scored on"),
    Rule("waymo", "", "Waymo is scored on"),
    Rule("game_loop", "", "game_loop is scored on"),
    Rule("circuits", "^(dirt-3|g-track-3|ruudskogen|wheel-1)/", "a circuit that is scored on"),
    Rule("circuits", "^aalborg/", "the circuit of game_loop"),
)


def denied(datasets: Sequence[str], sequence_ids: Sequence[str], splits: Sequence[str]) -> list[bool]:
    """Return for each sequence whether training must not see it."""
    return [
        split in DENIED_SPLITS or _is_named(dataset, name)
        for dataset, name, split in zip(datasets, sequence_ids, splits, strict=True)
    ]


def _is_named(dataset: str, sequence_id: str) -> bool:
    if dataset in LAYOUTS:
        folders = {re.sub("[^a-z0-9]", "", part.lower()) for part in sequence_id.split("/")}
        return bool(folders & FOLDERS) or any(
            re.search(drive, sequence_id) for drive in KITTI_ODOMETRY_DRIVES
        )
    return any(rule.dataset == dataset and re.search(rule.pattern, sequence_id) for rule in RULES)
