"""Hashes of the sources that computed a result, since between releases the version stays the same.

They are taken when this module is loaded, at the start of a run: sources that change during it are not those that run.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import scal3r_eval
import scal3r_train

TRAIN, EVAL = Path(scal3r_train.__file__).parent, Path(scal3r_eval.__file__).parent
NOT_SCORING = ("report", "study")  # how scores are shown, and the study, which has its own
# The packages that scores are computed and read with.
BELOW_SCORES = ("metrics", "geometry", "data", "scene", "inference")
NUM_SHOWN = 12


def sources_sha256(paths: list[Path]) -> str:
    """Return the hash of the names and contents of source files, whatever their order and the folders above."""
    digest = hashlib.sha256()
    for name, content in sorted((path.name, path.read_bytes()) for path in paths):
        digest.update(f"{name}\n{len(content)}\n".encode() + content)
    return digest.hexdigest()


def _sources(folder: Path) -> list[Path]:
    return list(folder.rglob("*.py"))


def _data_tools() -> list[Path]:
    """Return the sources of our neighbour, which is not imported; none where it is not installed."""
    found = importlib.util.find_spec("scal3r_data_tools")
    return [] if found is None or found.origin is None else _sources(Path(found.origin).parent)


_BELOW = [path for package in BELOW_SCORES for path in _sources(TRAIN / package)]
_SCORING = [path for path in _sources(EVAL) if path.relative_to(EVAL).parts[0] not in NOT_SCORING]

CODE_VERSION = f"{scal3r_train.__version__}+{sources_sha256([*_sources(TRAIN), *_sources(EVAL)])[:NUM_SHOWN]}"
SCORING_SHA256 = sources_sha256([*_SCORING, *_BELOW])  # what scores of sequences depend on
STUDY_SHA256 = sources_sha256([*_sources(EVAL / "study"), *_BELOW])  # what scores of a study depend on
INDEXING_SHA256 = sources_sha256([*_data_tools(), *_sources(TRAIN / "data")])
