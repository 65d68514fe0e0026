"""All ranks of a run were given the same: recipe, code, data. Checked once, before anything is built."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import scal3r_train
from scal3r_train.config import UserError, files_sha256
from scal3r_train.parallel.collectives import gather_to_all

MAX_SHOWN = 60  # characters of a value in the message


def require_agreement(recipe: Mapping[str, Any], indexes: Iterable[str]) -> None:
    """Return if all ranks hold the same recipe, this package's code, torch and index files; all ranks call this.

    Args:
        recipe: the resolved recipe as plain data.
        indexes: paths of all index files it names. They are read whole.

    Raises:
        UserError: the same line on every rank, naming the first difference, both values and who holds them.
    """
    facts = flattened(recipe)
    facts["version of torch"] = torch.__version__
    facts["code of scal3r_train"] = digest_of_package()
    facts |= {f"content of index {index}": digest_of_file(Path(index)) for index in sorted(set(indexes))}
    difference = first_difference(gather_to_all(facts))
    if difference is not None:
        raise UserError(difference)


def first_difference(facts: Sequence[Mapping[str, str]]) -> str | None:
    """Return a line about the first key in which ranks differ, None when all hold the same; facts[r] are rank r's."""
    for key in dict.fromkeys(key for held in facts for key in held):
        values = [held.get(key, "absent") for held in facts]
        other = next((rank for rank, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            return (
                f"ranks differ in {key}: {_shown(values[0])} on rank 0, {_shown(values[other])} on rank {other}; "
                "give every rank the same recipe, overrides, code and data"
            )
    return None


def flattened(node: Any, path: str = "") -> dict[str, str]:
    """Return the leaves of nested plain data as dotted path: value."""
    if isinstance(node, Mapping) and node:
        items = [(str(key), value) for key, value in node.items()]
    elif isinstance(node, list | tuple) and node:
        items = [(str(place), value) for place, value in enumerate(node)]
    else:
        return {path: repr(node)}
    return {
        key: text
        for name, value in items
        for key, text in flattened(value, f"{path}.{name}" if path else name).items()
    }


def digest_of_package() -> str:
    """Return a digest of every source file of this package, by name and content."""
    digest = hashlib.sha256()
    folder = Path(scal3r_train.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def digest_of_file(path: Path) -> str:
    """Return a digest of a file's content, or why it cannot be read."""
    try:
        return files_sha256([path])[:12]
    except OSError as error:
        return str(error.strerror)


def _shown(value: str) -> str:
    return value if len(value) <= MAX_SHOWN else f"{value[: MAX_SHOWN - 3]}..."
