"""What a setting may be, in words of a recipe: 'a whole number of at least 1', 'a list of paths or null'.

Read from the type annotations and bounds of settings classes. Refusals (`refusal.py`) and the reference of all
settings (`cli/reference.py`) say it with these words.
"""

from __future__ import annotations

import re
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

import annotated_types as bounds_of
from pydantic import BaseModel
from pydantic.fields import FieldInfo

# An annotation, and the bounds that a field or `Annotated` adds to it.
Kind: TypeAlias = tuple[Any, tuple[Any, ...]]

PATTERN = re.compile(r"\(pattern='(.*?)'\)$")
UNIT = re.compile(r"\s*\[([^\[\]]+)\]\.?$")


@dataclass(frozen=True)
class Words:
    """How a type is said: of one value, and of several (None: there is no short plural)."""

    one: str
    many: str | None


def kind_of_field(field: FieldInfo) -> Kind:
    """Return a field's annotation with the bounds that its `Field(...)` states."""
    return field.annotation, tuple(field.metadata)


def in_words(kind: Kind) -> str:
    """Return what a value of this type may be, such as "a number above 0 or null"."""
    alternatives = list(dict.fromkeys(words.one for part in members(kind) for words in _all_words(part)))
    *others, last = sorted(alternatives, key=lambda words: words == "null")
    return f"{', '.join(others)} or {last}" if others else last


def members(kind: Kind) -> list[Kind]:
    """Return the types that a union consists of, None among them; of any other type, itself."""
    annotation, bounds = _without_annotated(kind)
    if get_origin(annotation) in (Union, types.UnionType):
        return [
            inner
            for argument in get_args(annotation)
            for inner in members((argument, () if argument is type(None) else bounds))
        ]
    return [(annotation, bounds)]


def models_among(kind: Kind) -> list[type[BaseModel]]:
    """Return the sections that a value of this type may be, not those of its items."""
    return [annotation for annotation, _ in members(kind) if _is_model(annotation)]


def choices(kind: Kind) -> list[str]:
    """Return the words that a value may be chosen from."""
    literals = [annotation for annotation, _ in members(kind) if get_origin(annotation) is Literal]
    return [choice for literal in literals for choice in get_args(literal) if isinstance(choice, str)]


def item_kinds(kind: Kind, place: int | None = None) -> list[Kind]:
    """Return the types of a list's items (that at `place`, where each place has its own) or of a mapping's values."""
    found: list[Kind] = []
    for annotation, _ in members(kind):
        arguments = get_args(annotation)
        if get_origin(annotation) is dict:
            found.append((arguments[1], ()))
        elif get_origin(annotation) in (tuple, list):
            items = [argument for argument in arguments if argument is not Ellipsis]
            is_fixed = get_origin(annotation) is tuple and len(items) == len(arguments)
            if is_fixed and place is not None:
                items = items[place : place + 1]
            found += [(item, ()) for item in dict.fromkeys(items)]
    return found


def key_kinds(kind: Kind) -> list[Kind]:
    """Return the types that keys of a mapping may have."""
    return [(get_args(one)[0], ()) for one, _ in members(kind) if get_origin(one) is dict]


def sentence_and_unit(description: str | None) -> tuple[str, str | None]:
    """Return a description as one sentence with a full stop, and the unit that it ends in: `edge of a cube [m]`."""
    text = " ".join((description or "").split())
    unit = UNIT.search(text)
    sentence = UNIT.sub("", text).rstrip(".")
    first = sentence.split(" ", 1)[0]
    if re.fullmatch(r"[a-z][a-z-]*,?", first) and first != "null":
        sentence = sentence[0].upper() + sentence[1:]
    return f"{sentence}." if sentence else "", unit[1] if unit else None


def _without_annotated(kind: Kind) -> Kind:
    annotation, bounds = kind
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        inner = [part for one in more for part in (one.metadata if isinstance(one, FieldInfo) else (one,))]
        bounds = (*inner, *bounds)
    return annotation, bounds


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _all_words(kind: Kind) -> list[Words]:
    """Return the words for a type that is no union; those for a choice are one each."""
    annotation, bounds = _without_annotated(kind)
    origin = get_origin(annotation)
    if origin is Literal:
        return [
            Words(f"'{choice}'" if isinstance(choice, str) else str(choice), None)
            for choice in get_args(annotation)
        ]
    if annotation is bool:
        return [Words("true", None), Words("false", None)]
    if annotation is type(None):
        return [Words("null", None)]
    if origin is dict:
        keys, values = (_several((argument, ())) for argument in get_args(annotation))
        return [Words(f"a mapping from {keys} to {values}", None)]
    if origin in (tuple, list):
        return [Words(_list_words(annotation, bounds), "lists")]
    return [_plain_words(annotation, bounds)]


def _plain_words(annotation: Any, bounds: Sequence[Any]) -> Words:
    if annotation is int:
        return Words(f"a whole number{_range_words(bounds)}", f"whole numbers{_range_words(bounds)}")
    if annotation is float:
        return Words(f"a number{_range_words(bounds)}", f"numbers{_range_words(bounds)}")
    if annotation is str:
        words = f"text{_text_words(bounds)}"
        return Words(words, words)
    if isinstance(annotation, type) and issubclass(annotation, Path):
        return Words("a path", "paths")
    if _is_model(annotation):
        return Words("a section of keys", "sections of keys")
    return Words("a value", "values")


def _several(kind: Kind) -> str:
    """Return the words for many values of a type, as after "a list of"."""
    words = [words for part in members(kind) for words in _all_words(part)]
    if len(words) == 1 and words[0].many is not None:
        return words[0].many
    plural = [word.many for word in words if word.many is not None]
    if len(plural) == len(words):
        return " or ".join(plural)
    names = list(dict.fromkeys(word.many or word.one for word in words))
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]


def _list_words(annotation: Any, bounds: Sequence[Any]) -> str:
    arguments = get_args(annotation)
    items = [argument for argument in arguments if argument is not Ellipsis]
    what = " or ".join(dict.fromkeys(_several((item, ())) for item in items))
    if get_origin(annotation) is tuple and len(items) == len(arguments):
        return f"a list of {len(items)} {what}"
    least = next((bound.min_length for bound in bounds if isinstance(bound, bounds_of.MinLen)), 0)
    if least == 1:
        return f"a non-empty list of {what}"
    return f"a list of at least {least} {what}" if least else f"a list of {what}"


def _range_words(bounds: Sequence[Any]) -> str:
    """Return bounds of a number: " above 0", " from 0 to 1", " of at least 2 and below 5, a multiple of 2"."""
    parts = []
    low = next((bound.ge for bound in bounds if isinstance(bound, bounds_of.Ge)), None)
    high = next((bound.le for bound in bounds if isinstance(bound, bounds_of.Le)), None)
    if low is not None and high is not None:
        parts.append(f"from {low:g} to {high:g}" if isinstance(high, float) else f"from {low} to {high}")
    elif low is not None:
        parts.append(f"of at least {low}")
    elif high is not None:
        parts.append(f"of at most {high}")
    for bound in bounds:
        if isinstance(bound, bounds_of.Gt):
            parts.insert(0, f"above {bound.gt}")
        elif isinstance(bound, bounds_of.Lt):
            parts.append(f"below {bound.lt}")
    multiple = next((bound.multiple_of for bound in bounds if isinstance(bound, bounds_of.MultipleOf)), None)
    text = f" {' and '.join(parts)}" if parts else ""
    return text if multiple is None else f"{text}, a multiple of {multiple}"


def _text_words(bounds: Sequence[Any]) -> str:
    """Return bounds of a text; pydantic keeps a pattern in a class without a public name."""
    for bound in bounds:
        if isinstance(bound, bounds_of.MinLen) and bound.min_length > 0:
            return " that is not empty"
        pattern = PATTERN.search(repr(bound))
        if pattern is not None:
            return f" of the form '{pattern[1]}'"
    return ""
