"""Writes the model card and the resolved recipe beside exported weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from scal3r_train import __version__
from scal3r_train.config import write_text_atomically
from scal3r_train.data.index import SequenceIndex
from scal3r_train.data.index_summary import summarize
from scal3r_train.data.sources import deny_list_in_words
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.model.weight_files import folder_sha256
from scal3r_train.parallel.engine import Engine
from scal3r_train.training.model_card import CardFacts, model_card

if TYPE_CHECKING:
    from scal3r_train.training.trainer import TrainerSettings

RECIPE_NAME = "recipe.yaml"


class CardWriter:
    """Writes cards for the models of one run; on the main process."""

    def __init__(
        self,
        settings: TrainerSettings,
        engine: Engine,
        model: Scal3RModel,
        indexes: Sequence[SequenceIndex],
    ) -> None:
        """Note what does not change during the run; `model` is not wrapped yet."""
        self._settings = settings
        self._engine = engine
        self._num_parameters = sum(parameter.numel() for parameter in model.parameters())
        self._indexes = indexes

    def describe(self, folder: Path, step: int) -> None:
        """Write README.md and recipe.yaml into a folder that holds the weights after `step` steps."""
        settings = self._settings
        first, last = validations(settings.output_dir / "metrics.jsonl")
        facts = replace(
            self._facts,
            step=step,
            first_metrics=first,
            last_metrics={key: value for key, value in last.items() if key != "step"},
            last_metrics_step=int(last.get("step", 0)),
            recipe_file=RECIPE_NAME,
            checkpoint_sha256=folder_sha256(folder),
        )
        write_text_atomically(folder / RECIPE_NAME, settings.recipe_yaml)
        write_text_atomically(folder / "README.md", model_card(facts))

    @cached_property
    def _facts(self) -> CardFacts:
        settings, process = self._settings, self._engine.process
        stages = settings.curriculum.every_stage()
        return CardFacts(
            name=settings.name,
            licence=settings.checkpoint.licence,
            num_parameters=self._num_parameters,
            started_from=settings.started_from,
            data=summarize(self._indexes),
            resolutions=sorted({(size.height, size.width) for stage in stages for size in stage.resolution}),
            chunk_sizes=sorted({size for stage in stages for size in stage.chunk_size}),
            num_steps=settings.optim.num_steps,
            world_size=process.world_size,
            engine=self._engine.name,
            device=torch.cuda.get_device_name(process.device) if process.device.type == "cuda" else "CPU",
            precision=settings.precision,
            code_version=__version__,
            deny_list=deny_list_in_words(settings.data, self._indexes),
        )


def validations(metrics: Path) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Return what metrics.jsonl says of the validation before step 0 and of the last one, without what is null."""
    if not metrics.is_file():
        return {}, {}
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    known = [
        {key: value for key, value in line.items() if value is not None}
        for line in lines
        if any(key.startswith("val/") for key in line)
    ]
    if not known:
        return {}, {}
    return (known[0] if known[0]["step"] == 0 else {}), known[-1]
