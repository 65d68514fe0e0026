"""The measures in tables: name, unit, digits, and which end of it is good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """A row of the tables.

    Attributes:
        key: name in scores.json.
        title: for people, unit included.
        digits: after the point.
        better: which end is good.
    """

    key: str
    title: str
    digits: int
    better: Literal["lower", "higher"] = "lower"

    @property
    def part(self) -> str:
        """What it is a measure of, as `SequenceScores.partial_failures` names them; of other packages: "added"."""
        parts = {"poses": POSES, "points": POINTS, "depth": DEPTH}
        return next((name for name, measures in parts.items() if self in measures), "added")

    def text(self, value: float | None) -> str:
        """Return a value as it is printed; `-` for None. Small values keep two significant digits."""
        if value is None:
            return "-"
        text = f"{value:.{self.digits}f}"
        return text if float(text) != 0 or value == 0 else f"{value:.2g}"


POSES = (
    Measure("ate_rmse_m", "ATE (m)", 3),
    Measure("ate_percent", "ATE (% of path)", 2),
    Measure("rre_deg_per_100m", "RRE (deg/100 m)", 2),
    Measure("rte_m_per_100m", "RTE (m/100 m)", 2),
    Measure("rpe_translation_m", "RPE (m)", 3),
    Measure("rpe_rotation_deg", "RPE (deg)", 2),
    Measure("auc_3", "AUC@3", 3, "higher"),
    Measure("auc_5", "AUC@5", 3, "higher"),
    Measure("auc_15", "AUC@15", 3, "higher"),
    Measure("auc_30", "AUC@30", 3, "higher"),
)
POINTS = (
    Measure("accuracy_m", "accuracy (m)", 3),
    Measure("completeness_m", "completeness (m)", 3),
    Measure("chamfer_m", "Chamfer (m)", 3),
    Measure("precision", "precision", 3, "higher"),
    Measure("recall", "recall", 3, "higher"),
    Measure("f1", "F1", 3, "higher"),
)
DEPTH = (
    Measure("depth_abs_rel", "depth AbsRel", 3),
    Measure("depth_delta_1", "depth delta < 1.25", 3, "higher"),
    Measure("depth_delta_2", "depth delta < 1.25^2", 3, "higher"),
    Measure("depth_delta_3", "depth delta < 1.25^3", 3, "higher"),
)
SCORES = (*POSES, *POINTS, *DEPTH)
BY_SEQUENCE = tuple(one for one in SCORES if one.key in ("ate_rmse_m", "f1"))  # of which there are tables
