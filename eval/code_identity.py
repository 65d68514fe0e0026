"""Which code computed a result: hashes of the sources, since between releases the version stays the same."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import scal3r_eval
import scal3r_train

PACKAGES = (Path(scal3r_train.__file__).parent, Path(scal3r_eval.__file__).parent)
# Not part of scoring: how scores are shown, and the study, which keeps its own.
NOT_SCORING = ("report", "study")
FLOORS_OF_SCORING = ("metrics", "geometry", "data")
NUM_SHOWN = 12


@functools.cache
def code_version() -> str:
    """Return version and hash of all our code, VERSION+HASH."""
    sources = [path for package in PACKAGES for path in package.rglob("*.py")]
    return f"{scal3r_train.__version__}+{sources_sha256(sources)[:NUM_SHOWN]}"


@functools.cache
def scoring_sha256() -> str:
    """Return the hash of the code that scores depend on: evaluation, metrics, geometry and reading of frames."""
    floors, package = PACKAGES
    own = [path for path in package.rglob("*.py") if path.relative_to(package).parts[0] not in NOT_SCORING]
    below = [path for floor in FLOORS_OF_SCORING for path in (floors / floor).rglob("*.py")]
    return sources_sha256([*own, *below])


def sources_sha256(paths: list[Path]) -> str:
    """Return the hash of the names and contents of source files, whatever their order and the folders above."""
    digest = hashlib.sha256()
    for name, content in sorted((path.name, path.read_bytes()) for path in paths):
        digest.update(f"{name}\n{len(content)}\n".encode() + content)
    return digest.hexdigest()
