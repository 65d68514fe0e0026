"""Recipes are refused in their own words: whatever pydantic finds wrong, its own vocabulary reaches nobody."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pytest
from pydantic import BaseModel, Field, ValidationError
from pydantic_core.core_schema import ErrorType

from scal3r_data_tools.registry import ADAPTERS
from scal3r_eval.recipe import EvalRecipe, load_any_recipe
from scal3r_eval.study.settings import StudyRecipe
from scal3r_train.config import StrictModel, UserError, validate_mapping
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.refusal import mistakes, refusal_line
from scal3r_train.setting_types import Kind, in_words, item_kinds, kind_of_field, models_among
from scal3r_train.training.recipe import TrainingRecipe

RECIPES = (TrainingRecipe, ReconstructionRecipe, EvalRecipe, StudyRecipe)
# Words of pydantic and of JSON that nobody who writes a recipe needs to know.
FOREIGN = re.compile(
    r"\b([Ii]nput should|pydantic|validator|Value error|Assertion failed|[Tt]uple|[Dd]ict(ionary)?|[Oo]bject|array|"
    r"str(ing)?|int(eger)?|float|[Bb]ool(ean)?|None|True|False|instance|discriminator|tag|enum|literal|valid)\b"
)
WRONG: tuple[Any, ...] = (
    None, True, 7, -1, 0.5, float("nan"), 10**400, "", "x", "3", [], [None], ["x", 1], [[1]], {}, {"x": 1}, {"1": None},
)  # fmt: skip


class Left(StrictModel):
    kind: Literal["left"]
    size: int = 1


class Right(StrictModel):
    kind: Literal["right"]
    folder: Path
    right: int = 0


class Inner(StrictModel):
    lr: float = Field(1.0, gt=0, lt=10)
    shape: tuple[int, int] = (1, 2)


class Sample(StrictModel):
    first: tuple[Inner, ...] = Field((Inner(),), min_length=1)
    name: str | None = None
    inner: Inner = Inner()
    inners: tuple[Inner, ...] = ()
    cameras: tuple[float, float] | str | None = None
    weights: dict[Annotated[int, Field(ge=1)], float] = {}
    sides: dict[str, Annotated[Left | Right, Field(discriminator="kind")] | None] = {}
    window: int = Field(2, ge=2, multiple_of=2)
    level: Literal["quick", "thorough"] = "quick"
    size: str = Field("5GB", pattern="^[1-9][0-9]*GB$")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"cameras": [1]}, "cameras = [1]: it should be a list of 2 numbers, text or null"),
        ({"cameras": {"x": 1}}, 'cameras = {"x": 1}: it should be a list of 2 numbers, text or null'),
        ({"inner": {"shape": [1]}}, "inner.shape = [1]: it should be a list of 2 whole numbers"),
        ({"inner": {"shape": [1, 2, 3]}}, "inner.shape = [1, 2, 3]: it should be a list of 2 whole numbers"),
        ({"inner": {"shape": [1, "b"]}}, "inner.shape.1 = 'b': it should be a whole number"),
        ({"inner": {"lr": 10}}, "inner.lr = 10: it should be a number above 0 and below 10"),
        ({"inner": None}, "inner = null: it should be a section of keys: lr, shape"),
        ({"inners": [3]}, "inners.0 = 3: it should be a section of keys: lr, shape"),
        ({"first": [3]}, "first.0 = 3: it should be a section of keys: lr, shape"),
        ({"first": []}, "first = []: it should be a non-empty list of sections of keys"),
        ({"sides": {"a": {"kind": "right", "folder": "x", "right": 1, "y": 2}}},
         "unknown key 'sides.a.y'; known keys here: folder, kind, right"),
        ({"sides": {"a": {"kind": "right", "folder": "x", "right": "y"}}},
         "sides.a.right = 'y': it should be a whole number"),
        ({"weights": {"x": 1.0}}, "weights: key 'x' should be a whole number of at least 1"),
        ({"weights": {"2": True}}, "weights.2 = true: it should be a number"),
        ({"window": 3}, "window = 3: it should be a whole number of at least 2, a multiple of 2"),
        ({"window": "4"},
         "window = '4': it should be a whole number of at least 2, a multiple of 2; write it without quotes"),
        ({"level": "through"}, "level = 'through': it should be 'quick' or 'thorough'; did you mean 'thorough'?"),
        ({"size": "5 GB"}, "size = '5 GB': it should be text of the form '^[1-9][0-9]*GB$'"),
        ({"sides": {"a": {"kind": "lefft"}}},
         "sides.a.kind = 'lefft': it should be 'left' or 'right'; did you mean 'left'?"),
        ({"sides": {"a": {"size": 1}}}, "key 'sides.a.kind' is missing; it should be 'left' or 'right'"),
        ({"sides": {"a": {"kind": "right"}}},
         "key 'sides.a.folder' is missing and has no default; it should be a path"),
        ({"sides": {"a": {"kind": "left", "folder": "x"}}},
         "unknown key 'sides.a.folder'; known keys here: kind, size"),
        ({"sides": {"a": {"kind": "left", "size": "x"}}}, "sides.a.size = 'x': it should be a whole number"),
        ({"nmae": "x", "window": 3, "cameras": 1},
         "unknown key 'nmae'; did you mean 'name'? (and 2 more problems: cameras, window)"),
        ({"name": "\ud800"}, "it holds characters or nesting that no recipe can; write plain text and numbers"),
    ],
)  # fmt: skip
def test_one_line_for_each_mistake(given: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        validate_mapping(Sample, given, "recipe.yaml")
    assert str(caught.value) == f"recipe.yaml: {line}"


@pytest.mark.parametrize("error_type", get_args(ErrorType))
def test_every_kind_of_error_that_pydantic_knows(error_type: str) -> None:
    """Of whatever version is installed, wherever it occurs: a number, a section, a choice, the recipe itself."""
    for location, given in (
        (("window",), {"window": "x"}),
        (("inner",), {"inner": 1}),
        (("level",), {"level": []}),
        (("sides", "a"), {"sides": {"a": {}}}),
        (("weights", "x", "[key]"), {"weights": {"x": 1}}),
        (("cameras", "tuple[float, float]"), {"cameras": {}}),
        ((), 3),
    ):
        details = {
            "type": error_type,
            "loc": location,
            "msg": "Input should be a valid object",
            "input": None,
        }
        if error_type in ("value_error", "assertion_error"):
            details["ctx"] = {"error": ValueError("height must be above width")}
        (found,) = mistakes(Sample, [details], given)  # type: ignore[list-item]
        assert found.line and "\n" not in found.line
        assert not FOREIGN.findall(found.line), found.line


def with_value(path: tuple[Any, ...], value: Any) -> Any:
    """Return mappings and lists that hold one value, at the end of the path."""
    for key in reversed(path):
        value = [value] if key == 0 else {key: value}
    return value


def places(cls: type[BaseModel], above: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Kind]]:
    """Yield every key of a recipe, of all kinds of section that may stand there, with its type."""
    for name, field in cls.model_fields.items():
        yield from below((*above, name), kind_of_field(field))


def below(path: tuple[Any, ...], kind: Kind) -> Iterator[tuple[tuple[Any, ...], Kind]]:
    yield path, kind
    for model in models_among(kind):
        yield from places(model, path)
    for item in item_kinds(kind):
        is_list = "a list" in in_words(kind)
        yield from below((*path, 0 if is_list else "1"), item)


@pytest.mark.parametrize("cls", RECIPES, ids=lambda cls: cls.__name__)
def test_every_key_of_every_recipe_refuses_in_recipe_words(cls: type[StrictModel]) -> None:
    num_refused = 0
    for path, _ in places(cls):
        dotted = ".".join(map(str, path))
        for value in WRONG:
            given = with_value(path, value)
            try:
                validate_mapping(cls, given, "R")
            except UserError as error:
                line = str(error)
            else:
                continue
            num_refused += 1
            # What was given may hold such words, and so may what our own rules say.
            said = re.sub(r" = .*?: (?=it should be)", ": ", line)
            assert "\n" not in line
            assert not FOREIGN.findall(said), (dotted, value, line)
    assert num_refused > 100


def spots(value: Any, dump: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], bool]]:
    """Yield every key and item of a recipe, and whether it is a section."""
    if path:
        yield path, isinstance(value, StrictModel)
    if isinstance(value, StrictModel):
        for name in type(value).model_fields:
            yield from spots(vars(value)[name], dump[name], (*path, name))
    elif isinstance(value, tuple):
        for place, item in enumerate(value):
            yield from spots(item, dump[place], (*path, place))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from spots(item, dump[str(key)] if str(key) in dump else dump[key], (*path, str(key)))


def changed(dump: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy of a resolved recipe with another value at one place."""
    copy = json.loads(json.dumps(dump))
    node = copy
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return copy


@pytest.mark.parametrize("name", ["debug/cpu", "eval/synthetic", "reconstruct/default", "study/memory"])
def test_a_mistake_in_a_good_recipe_is_found_where_it_is(name: str) -> None:
    """A nonsensical value for each key in turn, and in each section a key that is not known."""
    recipe = load_any_recipe(Path(name), [])
    dump = json.loads(recipe.model_dump_json())
    nonsense = [{"zzz": [{}]}]
    for path, is_section in spots(recipe, dump):
        dotted = ".".join(map(str, path))
        with pytest.raises(UserError) as caught:
            validate_mapping(type(recipe), changed(dump, path, nonsense), "R")
        said = str(caught.value)
        # The items of a list or mapping may be named, and so may the kind of a section.
        assert said.startswith(
            (f"R: {dotted} = ", f"R: {dotted}.", f"R: unknown key '{dotted}.", f"R: key '{dotted}.")
        )
        assert "more problem" not in said or "unknown key" in said, said
        if is_section:
            with pytest.raises(UserError) as caught:
                validate_mapping(type(recipe), changed(dump, (*path, "zzz"), 1), "R")
            assert str(caught.value).startswith(f"R: unknown key '{dotted}.zzz'; known keys here: ")


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_so_do_options_of_data_sets(name: str) -> None:
    for options in (ADAPTERS[name].options, ADAPTERS[name].prepare_options):
        for path, _ in places(options):
            for value in WRONG:
                try:
                    validate_mapping(options, with_value(path, value), "overrides")
                except UserError as error:
                    said = re.sub(r"'\w*'| = .*?: (?=it should be)", "", str(error))
                    assert not FOREIGN.findall(said), said


def test_a_mistake_counts_once() -> None:
    with pytest.raises(ValidationError) as caught:
        Sample.model_validate({"cameras": [1], "window": 3})
    assert caught.value.error_count() == 3
    given = {"cameras": [1], "window": 3}
    assert len(mistakes(Sample, caught.value.errors(), given)) == 2
    assert refusal_line(Sample, caught.value, given).endswith("(and 1 more problem: window)")
