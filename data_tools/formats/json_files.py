"""JSON files of data sets, gzipped ones too."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from scal3r_train.config import UserError


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Raises UserError naming the file when it is missing or damaged."""
    try:
        data = path.read_bytes()
        return json.loads(gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; is this the dataset's own layout?") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def entry(mapping: Any, key: str, path: Path) -> Any:
    """Return mapping[key]. Raises UserError naming the file when there is no such key."""
    if not isinstance(mapping, dict) or key not in mapping:
        raise UserError(f"{path} has no '{key}'; is this the dataset's own layout?")
    return mapping[key]
