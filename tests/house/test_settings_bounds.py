"""Every number of a recipe has a least value: what is zero or negative is refused by its key, not met as a crash."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import get_origin

import annotated_types
from pydantic import BaseModel

import scal3r_data_tools
import scal3r_eval
import scal3r_train
from scal3r_train.config import StrictModel
from scal3r_train.setting_types import Kind, item_kinds, kind_of_field, members

# What programs write for themselves; scenes are checked where they are read.
RESULTS = (
    "scal3r_eval.results",
    "scal3r_train.scene.scene",
    "scal3r_train.scene.metric_scale",
    "scal3r_train.training.checkpointing.manifest",
)
ANY_NUMBER = {
    ("scal3r_train.inference.input.settings", "intrinsics"),  # checked against the images' size
    ("scal3r_train.training.recipe", "tap_layers"),  # these three by network_bounds.py, as config.json's
    ("scal3r_train.training.recipe", "memory_layers"),
    ("scal3r_train.training.recipe", "dpt_channels"),
    ("scal3r_data_tools.posed.options", "distortion"),
    ("scal3r_train.inference.alignment.settings", "time_offset_s"),  # clocks differ either way
    ("scal3r_data_tools.adapters.co3d_v2", "min_viewpoint_quality"),  # a score of either sign
}
SKIPPED = ("__main__", "scal3r_auto")


def settings_classes() -> Iterator[type[StrictModel]]:
    for package in (scal3r_train, scal3r_eval, scal3r_data_tools):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith(SKIPPED) and mentions_settings(found):
                importlib.import_module(found.name)
    yield from subclasses(StrictModel)


def mentions_settings(found: pkgutil.ModuleInfo) -> bool:
    spec = found.module_finder.find_spec(found.name)  # type: ignore[call-arg]
    return spec is not None and spec.origin is not None and "StrictModel" in open(spec.origin).read()


def subclasses(cls: type[StrictModel]) -> Iterator[type[StrictModel]]:
    for below in cls.__subclasses__():
        yield below
        yield from subclasses(below)


def unbounded(kind: Kind) -> Iterator[str]:
    for annotation, bounds in members(kind):
        if annotation in (int, float):
            if not any(isinstance(bound, annotated_types.Ge | annotated_types.Gt) for bound in bounds):
                yield annotation.__name__
        elif get_origin(annotation) in (tuple, list, dict):
            for item in item_kinds((annotation, bounds)):
                yield from unbounded(item)


def test_every_number_has_a_least_value() -> None:
    classes = [
        cls
        for cls in settings_classes()
        if cls.__module__.startswith("scal3r_") and cls.__module__ not in RESULTS
    ]
    assert len(classes) > 60
    faults = [
        f"{cls.__module__}.{cls.__name__}.{name}: {kind}"
        for cls in classes
        for name, field in cls.model_fields.items()
        if (cls.__module__, name) not in ANY_NUMBER
        for kind in unbounded(kind_of_field(field))
    ]
    assert faults == []


def test_finds_numbers_without_bounds() -> None:
    """The rule itself."""

    class Sample(BaseModel):
        bare: int
        inner: tuple[float, ...] | None = None
        mapped: dict[str, int] = {}

    assert [list(unbounded(kind_of_field(field))) for field in Sample.model_fields.values()] == [
        ["int"],
        ["float"],
        ["int"],
    ]
