"""Which meshes stand where in a track of SuperTuxKart (scene.xml), and how their textures are shown (materials.xml).

A scene is a tree of a track, objects and libraries (scenes of their own in library/NAME/node.xml) with a place,
turns in degrees and a scale each. Of models with several levels of detail the finest is taken. Coordinates are the
game's, y up and left-handed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from scal3r_data_tools.preparing.circuits.safe_xml import parse_xml
from scal3r_train.config import UserError

MAX_NESTING = 4
STANDING = (None, "static", "animation")  # types of objects that are shown where they stand
SKIPPED_IF = "isTrackReverse"
UNSEEN = "physics-only"


@dataclass(frozen=True)
class Placed:
    """A model's name, the folder of the scene that names it, and world_from_model [4, 4]."""

    model: str
    folder: Path
    world_from_model: np.ndarray


@dataclass(frozen=True)
class Look:
    """How a texture is shown: the game's shader, and the file of its opacity ("": its own)."""

    shader: str
    mask: str


def placed_models(track: Path, data: Path) -> list[Placed]:
    """Return every model of a track's scene. Raises UserError when the scene cannot be read."""
    root = parse_xml(track / "scene.xml")
    return list(_walk(root, track, data, np.eye(4), _finest(root), 0))


def looks(track: Path, data: Path) -> dict[str, Look]:
    """How textures are shown, by file name: as the game's own list says, then the track's, then the libraries'."""
    found: dict[str, Look] = {}
    files = [data / "textures" / "materials.xml", track / "materials.xml"]
    for path in files + sorted((data / "library").glob("*/materials.xml")):
        for element in _readable(path).iter("material"):
            look = Look(element.get("shader", "solid"), element.get("mask", ""))
            found.setdefault(element.get("name", ""), look)
    return found


def vector(element: Element | None, key: str, default: str) -> np.ndarray:
    """Three numbers of an attribute; one stands for all three. Raises ValueError for anything else."""
    text = default if element is None else element.get(key) or default
    try:
        values = np.array([float(word) for word in text.split()])
        return np.broadcast_to(values, 3).copy()
    except ValueError:
        raise ValueError(f"{key}='{text}' is not three numbers") from None


def _walk(
    node: Element, folder: Path, data: Path, world: np.ndarray, finest: dict[str, str], depth: int
) -> Iterator[Placed]:
    for element in node:
        if element.get("if") == SKIPPED_IF or element.get("interaction") == UNSEEN:
            continue
        here = world @ _matrix(element)
        if element.tag == "track":
            yield from _model(element.get("model"), folder, here)
            yield from _walk(element, folder, data, world, finest, depth)
        elif element.tag == "static-object" or (element.tag == "object" and element.get("type") in STANDING):
            yield from _model(_model_name(element, finest), folder, here)
        elif element.tag == "library" and depth < MAX_NESTING:
            library = data / "library" / element.get("name", "")
            inner = _readable(library / "node.xml")
            yield from _walk(inner, library, data, here, _finest(inner), depth + 1)


def _model(name: str | None, folder: Path, world: np.ndarray) -> Iterator[Placed]:
    if name and name.endswith(".spm"):
        yield Placed(name, folder, world)


def _model_name(element: Element, finest: dict[str, str]) -> str | None:
    if element.get("lod_instance") == "true":
        return finest.get(element.get("lod_group", ""))
    is_level = element.get("lod_group") and element.get("lod_distance")
    return None if is_level else element.get("model")


def _finest(root: Element) -> dict[str, str]:
    """By group, the model that is shown from nearest."""
    found = {}
    for group in root.iter("group"):
        models = [
            (float(e.get("lod_distance") or "inf"), e.get("model", "")) for e in group if e.get("model")
        ]
        if models:
            found[group.get("name", "")] = min(models)[1]
    return found


def _matrix(element: Element) -> np.ndarray:
    """Place, turns and scale of an element [4, 4]; turns are about x, then y, then z."""
    x, y, z = np.deg2rad(vector(element, "hpr", "0 0 0"))
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = about_z @ about_y @ about_x @ np.diag(vector(element, "scale", "1 1 1"))
    if element.get("xyz"):
        matrix[:3, 3] = vector(element, "xyz", "0 0 0")
    else:
        matrix[:3, 3] = [vector(element, axis, "0")[0] for axis in "xyz"]
    return matrix


def _readable(path: Path) -> Element:
    """A document, an empty one when it is not there or is damaged: the game goes on without, too."""
    try:
        return parse_xml(path)
    except UserError:
        return Element("nothing")
