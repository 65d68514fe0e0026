"""Packages that only some data sets need."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from scal3r_train.config import UserError


def optional(module: str, dataset: str, install: str) -> ModuleType:
    """Return an imported module. Raises UserError saying how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UserError(f"{dataset} needs {package}: {install} ({error})") from None
