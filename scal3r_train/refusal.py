"""Why a recipe is refused: pydantic's list of errors becomes one line in the words of recipes.

The line names the dotted key, what was given and what is expected; a word that is nearly right is corrected. A mistake
counts once, however many alternatives of a type it fails.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ValidationError

from scal3r_train.setting_types import (
    Kind,
    choices,
    in_words,
    item_kinds,
    key_kinds,
    kind_of_field,
    models_among,
)

MAX_KEYS_IN_MESSAGE = 12
MAX_OTHERS_IN_MESSAGE = 4
MAX_VALUE_LENGTH = 80
CUTOFF = 0.6  # of difflib: how alike a misspelling and what was meant are
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
OUR_OWN = ("value_error", "assertion_error")  # raised by validators of settings classes, in our words
TAG_ERRORS = ("union_tag_invalid", "union_tag_not_found")


@dataclass(frozen=True)
class Mistake:
    """One mistake of a recipe.

    Attributes:
        path: dotted key; empty for the recipe as a whole.
        line: what is wrong there, for people.
        is_unknown_key: such a key is usually a misspelling that also explains a missing one.
        keys: the parts of `path`, which may hold dots themselves.
    """

    path: str
    line: str
    is_unknown_key: bool = False
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where an error lies: the keys that lead there, what was given there, and the types that it may have."""

    keys: tuple[str, ...]
    given: Any
    kinds: tuple[Kind, ...]
    is_key: bool = False  # a mapping's key, the last of `keys`, is itself wrong
    is_missing: bool = False  # the last of `keys` was not given

    @property
    def path(self) -> str:
        """The dotted key."""
        return ".".join(self.keys)

    @property
    def expected(self) -> str:
        """What is expected here, in words."""
        return " or ".join(dict.fromkeys(map(in_words, self.kinds))) or "another value"

    @property
    def models(self) -> list[type[BaseModel]]:
        """The sections that may stand here."""
        return [model for kind in self.kinds for model in models_among(kind)]


def refusal_line(cls: type[BaseModel], error: ValidationError, given: Any) -> str:
    """Return the first mistake of a recipe as one line, and which others there are.

    `given` is what was validated: mappings, lists and plain values, keys being text.
    """
    return refusal(cls, error, given)[0]


def refusal(cls: type[BaseModel], error: ValidationError, given: Any) -> tuple[str, tuple[str, ...], Any]:
    """Return the line of `refusal_line`, the keys that lead to its mistake, and the value there; no keys: unknown."""
    found = mistakes(cls, error.errors(include_url=False), given)
    first = next((mistake for mistake in found if mistake.is_unknown_key), found[0])
    others = [mistake.path or "the whole" for mistake in found if mistake is not first]
    place = first.keys, _value_at(given, first.keys)
    if not others:
        return " ".join(first.line.split()), *place
    named = ", ".join(others[:MAX_OTHERS_IN_MESSAGE]) + (
        ", .." if len(others) > MAX_OTHERS_IN_MESSAGE else ""
    )
    count = f"{len(others)} more problem{'s' if len(others) > 1 else ''}"
    return " ".join(f"{first.line} (and {count}: {named})".split()), *place


def _value_at(given: Any, keys: Sequence[str]) -> Any:
    """Return the value to which keys lead; None where they lead nowhere."""
    for key in keys:
        if isinstance(given, dict):
            given = given.get(key)
        elif isinstance(given, list) and key.isdecimal() and int(key) < len(given):
            given = given[int(key)]
        else:
            return None
    return given


def mistakes(cls: type[BaseModel], errors: Sequence[Mapping[str, Any]], given: Any) -> list[Mistake]:
    """Return the mistakes behind pydantic's errors, one for each place.

    A list is not blamed beside its items: it may only lack those that are wrong.
    """
    found: dict[tuple[str, bool], Mistake] = {}
    for error in errors:
        place = _place_of(cls, error, given)
        found.setdefault((place.path, place.is_key), replace(_mistake(error, place), keys=place.keys))
    return [one for one in found.values() if not _has_inner(one, found.values())]


def _has_inner(outer: Mistake, others: Iterable[Mistake]) -> bool:
    return any(one.path.startswith(f"{outer.path}.") for one in others)


def _mistake(error: Mapping[str, Any], place: Place) -> Mistake:
    kind, path = error["type"], place.path
    if kind == "extra_forbidden" and place.keys:
        return Mistake(path, f"unknown key '{path}'; {_suggest_key(place)}", is_unknown_key=True)
    if kind in OUR_OWN:
        reason = str(error.get("ctx", {}).get("error") or error["msg"])
        # A rule about a whole section would print all of it, which helps nobody.
        shows_value = path and not isinstance(place.given, dict)
        subject = f"{path} = {_shown(place.given)}" if shows_value else path
        return Mistake(path, f"{subject}: {reason}" if subject else reason)
    if kind in TAG_ERRORS:
        return _tag_mistake(error, place)
    if place.is_missing:
        return Mistake(path, f"key '{path}' is missing and has no default; it should be {place.expected}")
    if kind.startswith("json_"):
        return Mistake(
            path, "it holds characters or nesting that no recipe can; write plain text and numbers"
        )
    if place.is_key:
        above, key = ".".join(place.keys[:-1]), place.keys[-1]
        return Mistake(path, f"{above}: key '{key}' should be {place.expected}")
    expected = place.expected
    if kind == "finite_number":
        expected = expected.replace("a number", "a finite number", 1)
    if place.models and not isinstance(place.given, dict):
        expected += f": {_listed(_known_keys(place.models))}"
    subject = f"{path} = {_shown(place.given)}" if path else "a recipe"
    return Mistake(path, f"{subject}: it should be {expected}{_hint(place)}")


def _tag_mistake(error: Mapping[str, Any], place: Place) -> Mistake:
    """A section whose kind says which keys it has, and the kind is missing or wrong."""
    key = error.get("ctx", {}).get("discriminator", "kind").strip("'")
    path = f"{place.path}.{key}" if place.path else key
    fields = [kind_of_field(model.model_fields[key]) for model in place.models if key in model.model_fields]
    at_key = Place((*place.keys, key), None, tuple(fields))
    options = [f"'{choice}'" for kind in fields for choice in choices(kind)]
    expected = f"{', '.join(options[:-1])} or {options[-1]}" if len(options) > 1 else at_key.expected
    if not isinstance(place.given, dict) or key not in place.given:
        return Mistake(path, f"key '{path}' is missing; it should be {expected}")
    value = place.given[key]
    nearest = _hint(Place(at_key.keys, value, at_key.kinds))
    return Mistake(path, f"{path} = {_shown(value)}: it should be {expected}{nearest}")


def _place_of(cls: type[BaseModel], error: Mapping[str, Any], given: Any) -> Place:
    """Follow an error's location along what was given and along the types.

    Pydantic's locations also hold names of alternatives. Where one names a kind of section, the other kinds are left
    out; at any other alternative the walk ends, since all of them fail for the same reason.
    """
    node, is_missing = given, False
    keys: list[str] = []
    kinds: list[Kind] = [(cls, ())]
    above: list[Kind] = []
    for part in error["loc"]:
        if part == "[key]":
            return Place(
                tuple(keys), None, tuple(key for kind in above for key in key_kinds(kind)), is_key=True
            )
        models = [model for kind in kinds for model in models_among(kind)]
        named = [model for model in models if _is_of_kind(model, part)] if len(models) > 1 else []
        if named:
            kinds = [(model, ()) for model in named]
            continue
        is_missing = error["type"] == "missing" and any(part in model.model_fields for model in models)
        if isinstance(node, dict) and (str(part) in node or is_missing):
            above, kinds, node = kinds, _below(kinds, str(part)), node.get(str(part))
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            items = [item for kind in kinds for item in item_kinds(kind, part)]
            above, kinds, node = kinds, items, node[part]
        else:
            break
        keys.append(str(part))
    chosen = above if error["type"] == "extra_forbidden" else kinds
    return Place(tuple(keys), node, tuple(chosen), is_missing=is_missing)


def _below(kinds: Sequence[Kind], key: str) -> list[Kind]:
    """Return the types that a key may have in sections or mappings of these types."""
    models = [model for kind in kinds for model in models_among(kind)]
    fields = [kind_of_field(model.model_fields[key]) for model in models if key in model.model_fields]
    return fields if models else [item for kind in kinds for item in item_kinds(kind)]


def _is_of_kind(model: type[BaseModel], name: int | str) -> bool:
    """Return whether pydantic calls a section by this name among others: by the value of its `kind`."""
    return any(name in choices(kind_of_field(field)) for field in model.model_fields.values())


def _suggest_key(place: Place) -> str:
    """Return what to write for an unknown key in these sections: the nearest known key, or all of them."""
    known = _known_keys(place.models)
    nearest = difflib.get_close_matches(place.keys[-1], known, n=1, cutoff=CUTOFF)
    return f"did you mean '{nearest[0]}'?" if nearest else f"known keys here: {_listed(known)}"


def _hint(place: Place) -> str:
    """Return what was probably meant, as "; did you mean 'x'?"; empty when nothing stands out."""
    if not isinstance(place.given, str):
        return ""
    known = [choice for kind in place.kinds for choice in choices(kind)]
    nearest = difflib.get_close_matches(place.given, known, n=1, cutoff=CUTOFF) if len(known) > 1 else []
    if nearest:
        return f"; did you mean '{nearest[0]}'?"
    looks_like_number = NUMBER.fullmatch(place.given) and "number" in place.expected
    return (
        "; write it without quotes" if looks_like_number or place.given in ("true", "false", "null") else ""
    )


def likely_meant(given: str, known: Iterable[str]) -> list[str]:
    """Return at most two names that somebody who wrote another may have meant, the likeliest first.

    The same letters (7scenes: seven_scenes), then names that hold what was given or are held by it (kitti:
    kitti_odometry), then what is spelled alike.
    """
    plain = {name: _plain(name) for name in sorted(known)}
    wanted = _plain(given)
    same = [name for name, letters in plain.items() if letters == wanted]
    within = {name: letters.find(wanted) for name, letters in plain.items() if wanted and wanted in letters}
    around = [name for name, letters in plain.items() if len(letters) > 2 and wanted.startswith(letters)]
    alike = difflib.get_close_matches(wanted, list(plain.values()), n=2, cutoff=CUTOFF)
    spelled = [name for letters in alike for name in plain if plain[name] == letters]
    found = same or sorted(within, key=lambda name: within[name]) or around or spelled
    return found[:2]


def _plain(name: str) -> str:
    """Letters and digits alone, numbers as digits."""
    letters = re.sub("[^a-z0-9]", "", name.lower())
    for digit, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    ):
        letters = letters.replace(word, str(digit))
    return letters


def _known_keys(models: Sequence[type[BaseModel]]) -> list[str]:
    return sorted({name for model in models for name in model.model_fields})


def _listed(known: Sequence[str]) -> str:
    return (
        ", ".join(known[:MAX_KEYS_IN_MESSAGE]) + (", .." if len(known) > MAX_KEYS_IN_MESSAGE else "")
        or "none"
    )


def _shown(value: Any) -> str:
    """Return a value as a recipe writes it, cut rather than drowning the message."""
    if isinstance(value, str | float):
        text = repr(value)
    else:
        text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[: MAX_VALUE_LENGTH - 3]}..."
