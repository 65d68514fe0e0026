"""Losses that other installed packages add (docs/extending/loss.md): the `losses.added` section of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from scal3r_train.config import StrictModel, UserError, validate_mapping
from scal3r_train.losses.predictions import Predictions
from scal3r_train.losses.targets import Targets
from scal3r_train.losses.terms import LossTerm, WeightedTerm
from scal3r_train.plugins import LOSSES, load_plugin

Head = Literal["camera", "depth", "points"]


class AddedLossSettings(StrictModel):
    """What the settings of every added loss hold; its own are a subclass."""

    weight: float = Field(default=1.0, ge=0, description="factor of the whole loss; 0 leaves it out [factor]")


@dataclass(frozen=True)
class AddedLoss:
    """What an entry point in `scal3r.losses` names.

    Attributes:
        terms: from predictions, targets and settings to named terms of sums and counts [B, K] per chunk. It runs under
            the same rules as our own (`losses.terms`): on every rank, with tensors alone, no value read back from the
            device, padding and unsupervised chunks zero but attached. Its names appear in logs as NAME_term, or as NAME
            where a term's name is empty; `settings.weight` is applied to all of them here.
        heads: those that it reads; where one is switched off the loss is left out.
        settings: their type, with a default for every field.
    """

    terms: Callable[[Predictions, Targets, Any], Mapping[str, LossTerm]]
    heads: tuple[Head, ...]
    settings: type[AddedLossSettings] = AddedLossSettings


@cache  # every step asks, and to look an entry point up is to search the whole environment
def _loss(name: str) -> AddedLoss:
    return load_plugin(LOSSES, name, AddedLoss)


def read_added_settings(given: Mapping[str, Any]) -> dict[str, AddedLossSettings]:
    """Return the settings of losses by name, each of its own type, from mappings or from settings.

    Raises:
        UserError: a loss is not installed, or does not know a key.
    """
    read = {}
    for name, values in given.items():
        kind = _loss(name).settings
        mapping = values.model_dump(mode="json") if isinstance(values, StrictModel) else values
        if not isinstance(mapping, Mapping):
            raise UserError(f"{name}: it should be a section of settings, such as {{weight: 0.1}}")
        read[name] = validate_mapping(kind, mapping, name)
    return read


def heads_taught(added: Mapping[str, AddedLossSettings]) -> set[str]:
    """Return the heads that losses with a weight learn by."""
    return {head for name, settings in added.items() if settings.weight > 0 for head in _loss(name).heads}


def added_terms(
    output: Predictions, targets: Targets, added: Mapping[str, AddedLossSettings]
) -> dict[str, WeightedTerm]:
    """Return the terms of all added losses that have a weight and whose heads are on, by the names that logs use.

    Raises:
        UserError: a loss returns something else than terms of [B, K] sums and counts.
    """
    predicted: dict[Head, Tensor | None] = {
        "camera": output.pose_encoding_stages,
        "depth": output.depth,
        "points": output.world_points,
    }
    terms: dict[str, WeightedTerm] = {}
    for name, settings in added.items():
        loss = _loss(name)
        if settings.weight == 0 or any(predicted[head] is None for head in loss.heads):
            continue
        for part, term in loss.terms(output, targets, settings).items():
            wanted = targets.chunk_mask.shape
            if not isinstance(term, LossTerm) or not term.total.shape == term.count.shape == wanted:
                raise UserError(
                    f"losses.added.{name}: its term '{part}' must be a LossTerm whose total and count have the shape "
                    f"{list(wanted)} of sequences and chunks; see {LOSSES.page}"
                )
            terms[f"{name}_{part}" if part else name] = WeightedTerm(settings.weight, term)
    return terms
