"""Which validation of a run was the best one, and whether the run has stopped getting better.

Decided from the numbers of validations alone, which are equal on all ranks, so all ranks decide alike; what is
remembered is part of a checkpoint. The validation before step 0 tells of the start and takes no part. The first of
equal values stays the best, and one that is not finite never is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from scal3r_train.config import StrictModel

ValidationMetric = Literal[
    "val/loss", "val/rotation_deg", "val/direction_deg", "val/auc_5", "val/auc_30", "val/abs_rel"
]
HIGHER_IS_BETTER = ("val/auc_5", "val/auc_30")


class BestSoFar:
    """The best value of one number of the validation.

    Attributes:
        metric: its name.
        value: None as long as there is none.
        step: after which it was measured.
        num_since: validations since then.
    """

    def __init__(self, metric: ValidationMetric, min_delta: float = 0.0) -> None:
        """Better means by more than `min_delta`."""
        self.metric: ValidationMetric = metric
        self._min_delta = min_delta
        self.value: float | None = None
        self.step: int | None = None
        self.num_since = 0

    def check(self, step: int, values: Mapping[str, float]) -> bool:
        """Take the numbers of a validation and return whether it is the best so far."""
        value = values.get(self.metric, math.nan)
        if step == 0:
            return False
        if not self._is_better(value):
            self.num_since += 1
            return False
        self.value, self.step, self.num_since = value, step, 0
        return True

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must keep, as JSON can hold it."""
        return {"metric": self.metric, "value": self.value, "step": self.step, "num_since": self.num_since}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's state; from that of another metric, or none, begin anew."""
        if state.get("metric") == self.metric:
            self.value, self.step, self.num_since = state["value"], state["step"], state["num_since"]

    def _is_better(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self.value is None:
            return True
        sign = -1 if self.metric in HIGHER_IS_BETTER else 1
        return sign * value < sign * self.value - self._min_delta


class EarlyStoppingSettings(StrictModel):
    """The `early_stopping` of the `validation` section."""

    metric: ValidationMetric = Field(
        default="val/loss", description="which number of the validation has to get better"
    )
    patience: int = Field(
        default=5,
        ge=1,
        description="validations in a row without a better value that end the run [validations]",
    )
    min_delta: float = Field(
        default=0.0,
        ge=0,
        description="by how much more than this a value must be better [unit of the metric]",
    )


class EarlyStopping:
    """Ends a run that gets no better; without settings it never does."""

    def __init__(self, settings: EarlyStoppingSettings | None) -> None:
        """Watch as `settings` say."""
        self._settings = settings
        self._best = None if settings is None else BestSoFar(settings.metric, settings.min_delta)

    def check(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a validation."""
        if self._best is not None:
            self._best.check(step, values)

    @property
    def reason(self) -> str:
        """Why the run is over, in words; empty when it is not."""
        if self._settings is None or self._best is None or self._best.num_since < self._settings.patience:
            return ""
        best, than = (
            self._best,
            f" by more than {self._settings.min_delta:g}" if self._settings.min_delta else "",
        )
        known = (
            "never finite"
            if best.value is None
            else f"not better than {best.value:.4g} (step {best.step}){than}"
        )
        times = "1 validation" if best.num_since == 1 else f"{best.num_since} validations in a row"
        return f"{best.metric} was {known} in {times}"

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must keep, as JSON can hold it, and for who reads it why the run is over."""
        return {} if self._best is None else self._best.state() | {"reason": self.reason}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's state; whether the run is over is decided by the settings of now."""
        if self._best is not None:
            self._best.restore(state)
