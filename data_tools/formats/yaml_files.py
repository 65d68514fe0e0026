"""YAML files of data sets, those that OpenCV writes too: `%YAML:1.0` and `!!opencv-matrix` are no YAML."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from scal3r_train.config import UserError
from scal3r_train.text_file import read_text_file
from scal3r_train.yaml_text import parse_yaml


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file that maps keys to values.

    Raises UserError naming the file when it is missing, damaged or no mapping.
    """
    try:
        text = read_text_file(path)
        text = re.sub(r"\A%YAML:.*", "", text).replace("!!opencv-matrix", "")
        content = parse_yaml(text)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; is this the dataset's own layout?") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no keys; is this the dataset's own layout?")
    return content


def numbers(mapping: Any, key: str, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """Return mapping[key] as float64 of a shape; an OpenCV matrix (`rows`, `cols`, `data`) or plain lists.

    One side of the shape may be -1. Raises UserError naming the file and key when it is missing or something else.
    """
    value = mapping.get(key) if isinstance(mapping, dict) else None
    if isinstance(value, dict):
        value = value.get("data")
    try:
        array = np.array(value, np.float64).reshape(shape)
    except (TypeError, ValueError):
        array = np.array(np.nan)
    if not np.isfinite(array).all():
        raise UserError(
            f"{path}: '{key}' is not an array of {shape} numbers; is this the dataset's own layout?"
        )
    return array
