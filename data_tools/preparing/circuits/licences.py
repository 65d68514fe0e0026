"""Whose work a circuit is and what may be done with it, as its game's files say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from scal3r_train.text_file import read_file_bytes

FREE_ART = "Free Art License"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Licence:
    """Terms and authors, as they are written down; several are joined."""

    terms: str
    authors: str


def joined(licences: Sequence[Licence]) -> Licence:
    """All terms and all authors, each once, in order."""
    terms = dict.fromkeys(licence.terms for licence in licences)
    authors = dict.fromkeys(licence.authors for licence in licences)
    return Licence(", ".join(terms), "; ".join(authors))


def readme_licence(path: Path) -> Licence:
    """Terms and authors in the readme.txt of a TORCS track."""
    text = _text(path)
    if re.search(r"free\s+art\s+licen[cs]e", text, re.IGNORECASE):
        terms = FREE_ART
    else:
        terms = "GPL-2.0" if re.search(r"GPL\s*v?2", text, re.IGNORECASE) else UNKNOWN
    said = re.findall(r"^.*(?:copyright|\u00a9|\bfrom [A-Z]).*$", text, re.IGNORECASE | re.MULTILINE)
    lines = [_without_sign(line) for line in said]
    return Licence(terms, "; ".join(line for line in lines if line) or UNKNOWN)


def debian_licence(path: Path, root: Path, files: Sequence[Path]) -> Licence:
    """Terms and authors of files below `root` by a machine-readable copyright file (DEP-5): the last match counts."""
    stanzas = [_fields(stanza) for stanza in re.split(r"\n\s*\n", _text(path)) if stanza.strip()]
    rules = [
        (fields["files"].split(), fields.get("license", ""), fields.get("copyright", ""))
        for fields in stanzas
        if "files" in fields
    ]
    terms: set[str] = set()
    authors: set[str] = set()
    for file in files:
        name = file.relative_to(root).as_posix()
        match = next((rule for rule in reversed(rules) if any(fnmatchcase(name, p) for p in rule[0])), None)
        if match is not None:
            terms.add(match[1].splitlines()[0].strip() or UNKNOWN)
            authors.update(line.strip() for line in match[2].splitlines() if line.strip())
    return Licence(", ".join(sorted(terms)) or UNKNOWN, "; ".join(sorted(authors)) or UNKNOWN)


def _fields(stanza: str) -> dict[str, str]:
    """Fields of a stanza by name in small letters; lines that begin with white space go on."""
    fields: dict[str, str] = {}
    key = ""
    for line in stanza.splitlines():
        if line[:1].isspace():
            fields[key] = f"{fields.get(key, '')}\n{line.strip()}"
        else:
            key, _, value = line.partition(":")
            key = key.strip().lower()
            fields[key] = value.strip()
    return fields


def _without_sign(line: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"(?i)copyright|\(c\)|\u00a9|\u00c2", " ", line)).strip(' .,"')


def _text(path: Path) -> str:
    """A file as UTF-8 or, where it is none, as ISO 8859-1; empty when it is not there."""
    try:
        data = read_file_bytes(path)
    except OSError:
        return ""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")
