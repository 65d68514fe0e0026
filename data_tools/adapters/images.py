"""A plain folder of images: one sequence without cameras."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scal3r_train.data.index.source import record_from_images
from scal3r_train.data.sequence import SequenceRecord


def index(source: Path) -> Iterator[SequenceRecord]:
    """The folder's images in natural order; see `record_from_images` for what is refused."""
    yield record_from_images(source)
