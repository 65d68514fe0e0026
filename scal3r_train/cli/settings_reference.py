"""Every key of settings with its type, default, unit and meaning, from the settings classes themselves.

`scal3r config RECIPE --describe` prints it for one recipe; `reference.py` writes it for all kinds as docs/recipes.md.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from scal3r_train.setting_types import (
    Kind,
    choices,
    in_words,
    item_kinds,
    kind_of_field,
    members,
    models_among,
    sentence_and_unit,
)

WIDTH = 110
MAX_VALUES = 3  # shown of a key below a list
REQUIRED = "required"


@dataclass(frozen=True)
class Key:
    """One key of a recipe.

    Attributes:
        path: dotted, with N for a number in a list and NAME for a name in a mapping.
        kind: its type and bounds.
        default: as a recipe writes it, or "required".
        unit: of a number; "-" for one that counts or names nothing that has a unit.
        sentence: what it does, with a full stop.
    """

    path: str
    kind: Kind
    default: str
    unit: str | None
    sentence: str

    @property
    def words(self) -> str:
        """Its type in words."""
        return in_words(self.kind)


@dataclass(frozen=True)
class Section:
    """The keys of one section; those of sections inside it follow in sections of their own.

    `label` tells it from other kinds of section that may have the same path.
    """

    path: str
    model: type[BaseModel]
    sentence: str
    keys: tuple[Key, ...]
    label: str = ""

    @property
    def title(self) -> str:
        """Its dotted key."""
        return f"{self.path}{self.label}" or "The recipe itself"


def sections_of(
    cls: type[BaseModel],
    path: str = "",
    sentence: str = "",
    defaults: BaseModel | None = None,
    label: str = "",
) -> Iterator[Section]:
    """Yield a settings class and all sections below it, parents first.

    `defaults` are settings whose values take the place of those in the class; `label` tells kinds of a section apart.
    """
    keys, inner = [], []
    for name, one in cls.model_fields.items():
        below, kind = f"{path}.{name}" if path else name, kind_of_field(one)
        default = vars(defaults)[name] if defaults is not None else one.get_default(call_default_factory=True)
        text, unit = sentence_and_unit(one.description)
        is_optional_or_many = len(members(kind)) > 1 or bool(item_kinds(kind))
        if is_optional_or_many or not models_among(kind):
            is_required = one.is_required() and defaults is None
            keys.append(Key(below, kind, REQUIRED if is_required else as_recipe(default), unit, text))
        inner += list(_sections_below(below, kind, text, default))
    opening = sentence or sentence_and_unit((cls.__doc__ or "").split("\n\n")[0])[0]
    yield Section(path, cls, opening, tuple(keys), label)
    yield from inner


def as_recipe(value: Any) -> str:
    """Return a value as a recipe writes it on one line."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {as_recipe(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(as_recipe, value)) + "]"
    return repr(value) if isinstance(value, int | float) else str(value) or '""'


def numbers_need_unit(key: Key) -> bool:
    """Return whether values of a key are numbers, or lists or mappings of them."""
    return any(annotation in (int, float) for annotation, _ in _all_members(key.kind))


def described(recipe: BaseModel, extra: Mapping[str, type[BaseModel]]) -> str:
    """Return all keys of a recipe's kind as text, with the values that it gives some of them.

    `extra`: further settings that the recipe's words are of, by title, such as the options of a data set.
    """
    lines: list[str] = []
    for section in sections_of(type(recipe)):
        lines += _section_lines(section, recipe)
    for title, cls in extra.items():
        for section in sections_of(cls):
            lines += _section_lines(replace(section, path=title), None)
    return "\n".join(lines).strip() + "\n"


def as_markdown(cls: type[BaseModel], level: int) -> str:
    """Return a heading and a table for each section with keys."""
    blocks = []
    for section in sections_of(cls):
        if not section.keys:
            continue
        title = f"`{section.path}`{section.label}" if section.path else section.title
        blocks.append(f"{'#' * level} {title}\n\n{section.sentence}\n\n{_table(section)}")
    return "\n".join(blocks)


def table_of_options(cls: type[BaseModel]) -> str:
    """Return one table of settings without sections."""
    return "\n".join(_table(section) for section in sections_of(cls))


def _sections_below(path: str, kind: Kind, text: str, default: Any) -> Iterator[Section]:
    models = models_among(kind)
    for model in models:
        given = default if isinstance(default, model) and len(models) == 1 else None
        yield from sections_of(model, path, text, given, _label(model, models))
    for item in item_kinds(kind):
        is_mapping = any(
            annotation is dict or str(annotation).startswith("dict[") for annotation, _ in members(kind)
        )
        inner = models_among(item)
        for model in inner:
            yield from sections_of(
                model, f"{path}.{'NAME' if is_mapping else 'N'}", "", None, _label(model, inner)
            )


def _label(model: type[BaseModel], models: list[type[BaseModel]]) -> str:
    """Return what tells a section from others that may stand in its place: the value of its `kind`."""
    if len(models) == 1:
        return ""
    return f" with kind: {choices(kind_of_field(model.model_fields['kind']))[0]}"


def _all_members(kind: Kind) -> Iterator[Kind]:
    for member in members(kind):
        yield member
        for item in item_kinds(member):
            yield from _all_members(item)


def _section_lines(section: Section, recipe: BaseModel | None) -> list[str]:
    lines = ["", section.title, *textwrap.wrap(section.sentence, WIDTH), ""]
    for key in section.keys:
        unit = f" [{key.unit}]" if key.unit not in (None, "-") else ""
        default = key.default if key.default == REQUIRED else f"default {key.default}"
        given = [] if recipe is None else _values(recipe, section, key)
        here = "" if given in ([], [key.default]) else f", here {' | '.join(given)}"
        lines.append(f"  {key.path}: {key.words}{unit}; {default}{here}")
        lines += textwrap.wrap(key.sentence, WIDTH, initial_indent="      ", subsequent_indent="      ")
    return lines


def _values(recipe: BaseModel, section: Section, key: Key) -> list[str]:
    """Return what a recipe gives a key, in each item of the lists above it; of sections only whether they are given."""
    nodes: list[Any] = [recipe]
    for part in section.path.split(".") if section.path else []:
        if part == "N":
            nodes = [item for node in nodes for item in node]
        elif part == "NAME":
            nodes = [item for node in nodes for item in node.values()]
        else:
            nodes = [vars(node)[part] for node in nodes if isinstance(node, BaseModel)]
        nodes = [node for node in nodes if node is not None]
    name = key.path.rpartition(".")[2]
    values = [vars(node)[name] for node in nodes if isinstance(node, section.model)]
    holds_sections = models_among(key.kind) or any(models_among(item) for item in item_kinds(key.kind))
    if holds_sections:
        return ["given below"] if any(values) else []
    texts = list(dict.fromkeys(map(as_recipe, values)))
    texts = [text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..." for text in texts]
    return texts if len(texts) <= MAX_VALUES else [*texts[:MAX_VALUES], ".."]


def _table(section: Section) -> str:
    lines = ["| key | type | default | unit | what it is |", "| --- | --- | --- | --- | --- |"]
    for key in section.keys:
        words = re.sub(r"'([^']*)'", r"`\1`", key.words)
        default = key.default if key.default == REQUIRED else f"`{key.default}`"
        sentence = key.sentence.replace("<", "&lt;")
        cells = (f"`{key.path}`", words, default, key.unit or "", sentence)
        lines.append("| " + " | ".join(map(_in_cell, cells)) + " |")
    return "\n".join(lines) + "\n"


def _in_cell(text: str) -> str:
    """Return a text whose bars do not end a table's cell; GitHub and mkdocs disagree about those in code."""
    in_code = re.sub(r"`([^`]*\|[^`]*)`", r"<code>\1</code>", text)
    return in_code.replace("|", "&#124;")
