"""The reference pages are what the code says now, and leave nothing out: keys of recipes, names of metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
from pydantic import BaseModel

import scal3r_train
from scal3r_data_tools.registry import ADAPTERS
from scal3r_eval.measures import SCORES
from scal3r_eval.recipe import load_any_recipe
from scal3r_eval.score_sequence import METRICS as DEPTH_METRICS
from scal3r_eval.score_sequence_points import METRICS as POINT_METRICS
from scal3r_train.cli import main
from scal3r_train.cli.reference import DATA_COMMANDS, PAGES, RECIPES
from scal3r_train.cli.settings_reference import Key, numbers_need_unit, sections_of
from scal3r_train.config import StrictModel
from scal3r_train.metrics.logged import EVALUATION, TRAINING, described_metric
from scal3r_train.metrics.trajectory import TrajectoryScore
from scal3r_train.setting_types import sentence_and_unit
from tests.conftest import PROJECT_ROOT
from tests.house.test_recipes import RECIPES as RECIPE_FILES
from tests.house.test_recipes import relative

# One word for one thing. A description ends in one of these in brackets: "edge of a cube [m]".
UNITS = {
    "-", "share", "factor", "weight", "score", "confidence", "percentile", "cosine", "rate", "standard deviations",
    "tangent", "gradient norm", "JPEG quality", "unit of the metric",
    "m", "m/frame", "m/unit", "scene units", "deg", "deg/frame", "pixels", "feature pixels", "patches",
    "s", "ms", "min", "h", "frames/s", "MB", "GB", "GiB",
    "step", "steps", "step plans", "validations", "checkpoints", "iterations", "rounds", "draws", "elements",
    "frame", "frames", "images", "sequences", "windows", "chunks", "pairs", "points", "directions", "drives", "laps",
    "black-outs", "ranks", "processes", "threads", "layer", "layers", "heads", "channels", "tokens",
    "edges", "ranks: weight", "chunks: weight", "frames: weight",
}  # fmt: skip
SETTINGS: list[type[BaseModel]] = [
    *(cls for cls, _ in RECIPES.values()),
    *DATA_COMMANDS.values(),
    *(cls for adapter in ADAPTERS.values() for cls in (adapter.options, adapter.prepare_options)),
]
HOW = "write it with `make reference` (python -m scal3r_train.cli.reference docs)"


def all_keys() -> Iterator[tuple[type[BaseModel], Key]]:
    for cls in SETTINGS:
        for section in sections_of(cls):
            assert section.sentence, f"{section.model.__qualname__} needs a docstring"
            yield from ((section.model, key) for key in section.keys)


@pytest.mark.parametrize("name", PAGES)
def test_page_is_what_the_code_says(name: str) -> None:
    assert (PROJECT_ROOT / "docs" / name).read_text("utf-8") == PAGES[name](), f"docs/{name} is old; {HOW}"


def test_every_key_has_a_sentence_and_numbers_a_unit() -> None:
    wrong = []
    for cls, key in all_keys():
        name = f"{cls.__module__}.{cls.__qualname__}.{key.path.rpartition('.')[2]}"
        if len(key.sentence.split()) < 2 or re.search(r"[.!?] [A-Z]", key.sentence):
            wrong.append(f"{name}: its description should be one sentence, not {key.sentence!r}")
        if numbers_need_unit(key) and key.unit not in UNITS:
            wrong.append(f"{name}: its description should end in a unit in brackets, not {key.unit!r}")
        if not numbers_need_unit(key) and key.unit is not None:
            wrong.append(f"{name}: a unit, {key.unit!r}, of what is no number")
    assert not wrong, "\n".join(sorted(set(wrong)))


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        (None, ("", None)),
        ("edge of a cube [m]", ("Edge of a cube.", "m")),
        ("Edge of a cube, [a, b] or c.", ("Edge of a cube, [a, b] or c.", None)),
        ("null: that of the recipe [frames].", ("null: that of the recipe.", "frames")),
        ("sequence_id of each", ("sequence_id of each.", None)),
    ],
)
def test_a_description_is_a_sentence_and_a_unit(
    description: str | None, expected: tuple[str, str | None]
) -> None:
    assert sentence_and_unit(description) == expected


def paths_in(value: Any, cls: type[BaseModel]) -> Iterator[str]:
    """The dotted keys of a resolved recipe as the reference writes them, read off the recipe's own values."""
    for name in cls.model_fields:
        yield from (f"{name}{rest}" for rest in below(vars(value)[name]))


def below(value: Any) -> Iterator[str]:
    if isinstance(value, StrictModel):
        yield from (f".{path}" for path in paths_in(value, type(value)))
        return
    yield ""
    if isinstance(value, tuple):
        yield from (f".N{rest}" for item in value for rest in below(item) if rest)
    elif isinstance(value, dict):
        yield from (f".NAME{rest}" for item in value.values() for rest in below(item) if rest)


@pytest.mark.parametrize("path", RECIPE_FILES, ids=relative)
def test_every_key_of_a_shipped_recipe_is_in_the_reference(path: Any) -> None:
    recipe = load_any_recipe(path, [])
    listed = {key.path for section in sections_of(type(recipe)) for key in section.keys}
    sections = {section.path for section in sections_of(type(recipe))}
    used = set(paths_in(recipe, type(recipe)))
    assert len(used) > 20
    assert used <= listed | sections


def test_a_recipe_is_described_with_its_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["config", str(PROJECT_ROOT / "recipes/debug/cpu.yaml"), "optim.clip_norm=3", "--describe"]) == 0
    )
    text = capsys.readouterr().out
    assert (
        "  optim.clip_norm: a number above 0 [gradient norm]; default 1.0, here 3.0\n      Maximum norm"
        in text
    )
    assert "  data.sources.N.weight: a number above 0 [weight]; default 1.0\n" in text
    assert "  model.network.patch_size: a whole number from 1 to 65536 [pixels]; default 14\n" in text


def test_options_of_the_data_set_are_described_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--describe", str(PROJECT_ROOT / "recipes/eval/tum.yaml")]) == 0
    assert "  max_gap_s: a number above 0 [s]; default 0.02\n" in capsys.readouterr().out


def test_every_score_is_in_the_list_of_metrics() -> None:
    """Names that an evaluation writes, and which end of each is good."""
    names = {field.name for field in fields(TrajectoryScore)}
    names |= {*POINT_METRICS, *(f"depth_{name}" for name in DEPTH_METRICS), *(one.key for one in SCORES)}
    missing = sorted(name for name in names if described_metric(name, EVALUATION) is None)
    assert not missing, f"scal3r_train/metrics/logged.py lacks {missing}"
    for measure in SCORES:
        entry = described_metric(measure.key, EVALUATION)
        assert entry is not None
        assert entry.better == measure.better, measure.key


def test_metrics_are_computed_where_the_list_says() -> None:
    for entry in (*TRAINING, *EVALUATION):
        assert (PROJECT_ROOT / "scal3r_train" / entry.computed_in).is_file(), entry.computed_in
        assert entry.sentence.endswith(".")
        assert entry.unit in UNITS | {"%", "m/100 m", "deg/100 m", "tokens/s", "groups", "poses"}, entry.name


def test_two_entries_never_describe_one_name() -> None:
    for among in (TRAINING, EVALUATION):
        examples = [re.sub(r"<[a-z]+>", "1", one.name) for one in among]
        for example in examples:
            assert sum(one.matches(example) for one in among) == 1, example


def test_public_names_are_on_their_page() -> None:
    page = (PROJECT_ROOT / "docs/api.md").read_text("utf-8")
    missing = [
        name for name in scal3r_train.__all__ if not name.startswith("_") and f"| `{name}` |" not in page
    ]
    assert not missing, f"docs/api.md lacks {missing}"
    for name, home in scal3r_train._HOMES.items():
        assert f"`{home}.{name}`" in page
