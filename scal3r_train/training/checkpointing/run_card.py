"""The model card of a run's weights, and the recipe beside it: facts of a run for scal3r_train/model/hub_card.py."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import compress
from pathlib import Path

import torch

from scal3r_train import __version__
from scal3r_train.config import dump_mapping, write_text_atomically
from scal3r_train.data.index.index import SequenceIndex, summarize
from scal3r_train.data.sampling.sources import deny_list_in_words, kept_out
from scal3r_train.model.configuration_scal3r import write_processor_config
from scal3r_train.model.hub_card import (
    METRIC_PREFIX,
    CardFacts,
    TrainingFacts,
    ValidationFacts,
    model_card,
)
from scal3r_train.model.hub_files import CARD_NAME, RECIPE_NAME, name_of_weights, without_local_paths
from scal3r_train.model.lora import is_adapter
from scal3r_train.model.merge_adapters import is_adapter_folder
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.model.weight_files import folder_sha256
from scal3r_train.parallel.engine import Engine
from scal3r_train.text_file import parse_json
from scal3r_train.training.checkpointing.checkpoint_files import AVERAGE_ENDING
from scal3r_train.training.checkpointing.export import processor_settings
from scal3r_train.training.recipe import TrainingRecipe

HUB_DATA = re.compile(r"^hf://datasets/([^/]+/[^/@]+)")
HUB_CACHE = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/")  # where the hub's own library keeps downloads


class CardWriter:
    """Writes cards for the models of one run; on the main process."""

    def __init__(
        self,
        recipe: TrainingRecipe,
        engine: Engine,
        model: Scal3RModel,
        indexes: Sequence[SequenceIndex],
        validation_indexes: Sequence[SequenceIndex] = (),
    ) -> None:
        """Note what does not change during the run.

        Args:
            recipe: of the run.
            engine: what computes it.
            model: not wrapped yet.
            indexes: of its training data, those that are there.
            validation_indexes: what it validates on.
        """
        self._recipe = recipe
        self._engine = engine
        self._measures_motion = model.config.has_motion
        self._num_parameters = sum(
            parameter.numel() for name, parameter in model.named_parameters() if not is_adapter(name)
        )
        self._processor = processor_settings(recipe.curriculum.every_stage(), model.config.patch_size)
        self._indexes, self._validation_indexes = indexes, validation_indexes

    def describe(self, folder: Path, step: int) -> None:
        """Write README.md, recipe.yaml and the image processor's into a folder that holds the weights after a step."""
        facts, training = self._facts, self._facts.training
        assert training is not None
        validation = self._validation(step)
        training = replace(training, step=step, validation=validation)
        is_adapters = is_adapter_folder(folder)
        facts = replace(
            facts,
            training=training,
            checkpoint_sha256=folder_sha256(folder),
            is_adapters=is_adapters,
            is_average=folder.name.endswith(AVERAGE_ENDING),
        )
        if not is_adapters:
            write_processor_config(folder, self._processor)
        recipe = without_local_paths(self._recipe.model_dump(mode="json"))
        write_text_atomically(folder / RECIPE_NAME, dump_mapping(recipe))
        write_text_atomically(folder / CARD_NAME, model_card(facts))

    def _validation(self, step: int) -> ValidationFacts | None:
        first, last = validations(Path(self._recipe.output_dir) / "metrics.jsonl", step)
        if not last:
            return None
        validated = [name for index in self._validation_indexes for name in _sequences(index)]
        return ValidationFacts(
            data=list(dict.fromkeys(dataset for dataset, _ in validated)),
            num_sequences=len(validated),
            num_trained_on=sum(name in self._trained_on for name in validated),
            step=int(last["step"]),
            first=first,
            last={key: value for key, value in last.items() if key.startswith(METRIC_PREFIX)},
        )

    @cached_property
    def _trained_on(self) -> set[tuple[str, str]]:
        """Data set and name of every sequence that may be drawn in training."""
        return {
            name
            for index, used in zip(self._indexes, self._used, strict=True)
            for name in compress(_sequences(index), used)
        }

    @cached_property
    def _used(self) -> list[list[bool]]:
        """For each index which of its sequences may be drawn: all but what the deny-list keeps out."""
        return [(~kept_out(self._recipe.data, index)).tolist() for index in self._indexes]

    @cached_property
    def _facts(self) -> CardFacts:
        recipe, process = self._recipe, self._engine.process
        stages = recipe.curriculum.every_stage()
        device = torch.cuda.get_device_name(process.device) if process.device.type == "cuda" else "CPU"
        started_from, encoder = recipe.model.checkpoint, recipe.model.encoder
        training = TrainingFacts(
            data=summarize(self._indexes, self._used),
            hub_data=[found[1] for index in self._indexes if (found := HUB_DATA.match(index.path))],
            deny_list=deny_list_in_words(recipe.data, self._indexes),
            resolutions=sorted({(size.height, size.width) for stage in stages for size in stage.resolution}),
            chunk_sizes=sorted({size for stage in stages for size in stage.chunk_size}),
            step=0,
            num_steps=recipe.optim.num_steps,
            computed_by=(
                f"{process.world_size} {'processes' if process.world_size > 1 else 'process'}, engine "
                f"{self._engine.name}, {recipe.parallel.precision}, on {device}"
            ),
        )
        return CardFacts(
            name=recipe.run_name,
            licence=recipe.checkpoint.licence,
            num_parameters=self._num_parameters,
            code_version=__version__,
            checkpoint_sha256="",
            started_from=None if started_from is None else name_of_weights(Path(started_from)),
            encoder_of=None if encoder is None else name_of_weights(Path(encoder)),
            base_model=recipe.checkpoint.base_model or _from_hub_cache(started_from),
            recipe_file=RECIPE_NAME,
            training=training,
            motion_hw=recipe.final_image_hw if self._measures_motion else None,
        )


def _sequences(index: SequenceIndex) -> list[tuple[str, str]]:
    return list(zip(index.column("dataset"), index.sequence_ids, strict=True))


def _from_hub_cache(checkpoint: str | None) -> str | None:
    """Return OWNER/NAME of weights that lie where the hub's library downloads to; None of others."""
    found = None if checkpoint is None else HUB_CACHE.search(checkpoint)
    return None if found is None else f"{found[1]}/{found[2]}"


def validations(metrics: Path, step: int) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Return what metrics.jsonl says of the validation before step 0 and of the last one, without what is null.

    Lines after `step`, and one that is still being written, are those of a run that has gone on since.
    """
    if not metrics.is_file():
        return {}, {}
    text = metrics.read_text(encoding="utf-8")
    lines = [parse_json(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    known = [
        {key: value for key, value in line.items() if value is not None}
        for line in lines
        if line["step"] <= step and any(key.startswith("val/") for key in line)
    ]
    if not known:
        return {}, {}
    return (known[0] if known[0]["step"] == 0 else {}), known[-1]
