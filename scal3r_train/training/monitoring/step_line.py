"""The line that a logged step or a validation is to a reader; pure text from the numbers of the metrics."""

from __future__ import annotations

from collections.abc import Mapping

HEADS = ("camera", "depth", "points")
WEIGHTED, RATE = "weighted/", "lr/"


def step_line(step: int, num_steps: int, values: Mapping[str, float], left: str) -> str:
    """Return the line of a logged step.

    Args:
        step: that has been completed.
        num_steps: of the run.
        values: its metrics.
        left: how long the rest will take, as `Pace.left` says it.
    """
    parts = ", ".join(f"{name} {value:.4g}" for name, value in _loss_parts(values).items())
    words = [
        f"{_place(step, num_steps)}loss {values['loss']:.5g} ({parts})",
        f"lr {_rates(values)}",
        f"gradient {values['grad_norm']:.3g}",
        f"{values['throughput/frames_per_s']:.3g} frames/s{left}",
    ]
    return "  ".join(words)


def validation_line(step: int, num_steps: int, values: Mapping[str, float], best_metric: str) -> str:
    """Return the line of a validation; `best_metric` names what was never better, empty where nothing was."""
    shown = "  ".join(f"{key.removeprefix('val/')} {value:.4g}" for key, value in values.items())
    return f"{_place(step, num_steps)}validation: {shown}{f'  (best {best_metric} so far)' if best_metric else ''}"


def _place(step: int, num_steps: int) -> str:
    return f"step {step:{len(str(num_steps))}d}/{num_steps}  "


def _loss_parts(values: Mapping[str, float]) -> dict[str, float]:
    """Return what adds up to the loss, terms of one head together."""
    parts: dict[str, float] = {}
    for key, value in values.items():
        if key.startswith(WEIGHTED):
            term = key.removeprefix(WEIGHTED)
            head = term.partition("_")[0]
            name = head if head in HEADS else term
            parts[name] = parts.get(name, 0.0) + value
    return parts


def _rates(values: Mapping[str, float]) -> str:
    """Return the learning rates by part of the model, one number where they are equal."""
    rates = {
        key.removeprefix(RATE).partition("_")[0]: f"{value:.3g}"
        for key, value in values.items()
        if key.startswith(RATE)
    }
    if len(set(rates.values())) == 1:
        return next(iter(rates.values()))
    return ", ".join(f"{part} {rate}" for part, rate in rates.items())
