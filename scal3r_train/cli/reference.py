"""python -m scal3r_train.cli.reference: write the reference pages, docs/recipes.md and docs/logged_metrics.md.

They are generated from the settings and the list of metrics; a test compares them with what this module would write.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from scal3r_data_tools.checking.evidence import CheckSettings
from scal3r_data_tools.index import IndexSettings
from scal3r_data_tools.pack import PackSettings
from scal3r_data_tools.preview import PreviewSettings
from scal3r_data_tools.registry import ADAPTERS
from scal3r_data_tools.summary import SummarySettings
from scal3r_data_tools.synth import SynthSettings
from scal3r_eval.recipe import EvalRecipe
from scal3r_eval.study.settings import StudyRecipe
from scal3r_train.cli.settings_reference import as_markdown, table_of_options
from scal3r_train.config import UserError, run_command, write_text_atomically
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.metrics.logged import EVALUATION, TRAINING, LoggedMetric
from scal3r_train.training.recipe import TrainingRecipe

RECIPES: Mapping[str, tuple[type[BaseModel], str]] = {
    "Training": (
        TrainingRecipe,
        "`task: train`, for `scal3r train` and `scal3r plan`: [training.md](training.md).",
    ),
    "Reconstruction": (
        ReconstructionRecipe,
        "`task: reconstruct`, for `scal3r reconstruct`: [reconstruct.md](reconstruct.md).",
    ),
    "Evaluation": (EvalRecipe, "`task: eval`, for `scal3r eval`: [evaluation.md](evaluation.md)."),
    "Study": (StudyRecipe, "`task: study`, for `python -m scal3r_eval.study`: [study.md](study.md)."),
}
DATA_COMMANDS: Mapping[str, type[BaseModel]] = {
    "scal3r data index": IndexSettings,
    "scal3r data check": CheckSettings,
    "scal3r data preview": PreviewSettings,
    "scal3r data summary": SummarySettings,
    "scal3r data pack": PackSettings,
    "scal3r data synth": SynthSettings,
}

RECIPES_HEAD = """# Keys of recipes

Written by `make reference` from the settings in the code; do not edit it. `scal3r config RECIPE --describe` prints the
same for one recipe, with the values that it gives.

A recipe is a YAML file; any key can be changed on the command line as `key.path=value`. In a path `N` stands for a
number in a list, from 0, and `NAME` for a name in a mapping. A unit of `-` is that of a number without one, such as a
seed; `share` is a number from 0 to 1, `scene units` are those of the truth or of the first chunk, metres where these
are metric. A mapping such as `{16: 0.5, 24: 0.5}` draws from its keys by their weights.
"""
METRICS_HEAD = """# Logged metrics

Written by `make reference` from `scal3r_train/metrics/logged.py`; do not edit it. `<..>` stands for a name or a number.

"""
TABLE_HEAD = "| name | unit | better | what it is | computed in |\n| --- | --- | --- | --- | --- |\n"


def recipes_page() -> str:
    """Return docs/recipes.md."""
    blocks = [RECIPES_HEAD]
    for title, (cls, sentence) in RECIPES.items():
        blocks.append(f"## {title}\n\n{sentence}\n\n{as_markdown(cls, 3)}")
    blocks.append("## Commands of data\n\nGiven as `key=value` after the other arguments.\n")
    blocks += [f"### `{command}`\n\n{table_of_options(cls)}" for command, cls in DATA_COMMANDS.items()]
    blocks.append(
        "## Options of data sets\n\nOf `scal3r data index` and `scal3r data prepare`; sets without options are left "
        "out.\n"
    )
    for name, adapter in sorted(ADAPTERS.items()):
        for command, cls in (("index", adapter.options), ("prepare", adapter.prepare_options)):
            if cls.model_fields:
                blocks.append(
                    f"### `scal3r data {command} {name}`\n\n[{name}](data/{name}.md)\n\n{table_of_options(cls)}"
                )
    return "\n".join(blocks)


def metrics_page() -> str:
    """Return docs/logged_metrics.md."""
    training = (
        "## Training\n\nKeys of `metrics.jsonl`, of TensorBoard and of Weights & Biases; "
        "[training.md](training.md#metrics) says when they are measured.\n"
    )
    evaluation = (
        "## Evaluation\n\nKeys of `metrics` in `scores.json`; [metrics.md](metrics.md) defines them. Lengths are in "
        "the unit of the truth.\n"
    )
    return "\n".join((METRICS_HEAD + training, _table(TRAINING), evaluation, _table(EVALUATION)))


PAGES = {"recipes.md": recipes_page, "logged_metrics.md": metrics_page}


def main(folder: str = "docs") -> None:
    """Write the pages into `folder`. Raises UserError when that is not there."""
    if not Path(folder).is_dir():
        raise UserError(f"folder {folder} does not exist; run this in the repository, or name its docs")
    for name, page in PAGES.items():
        write_text_atomically(Path(folder) / name, page())


def _table(metrics: tuple[LoggedMetric, ...]) -> str:
    rows = [
        f"| `{one.name}` | {one.unit} | {one.better} | {one.sentence} | `{one.computed_in}` |\n"
        for one in metrics
    ]
    return TABLE_HEAD + "".join(rows)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(*sys.argv[1:2])))
