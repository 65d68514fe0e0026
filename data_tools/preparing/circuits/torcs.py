"""Circuits of TORCS: tracks/CATEGORY/TRACK/{TRACK.acc or .ac, TRACK.xml, readme.txt, textures}.

Textures that a track's folder lacks are in data/textures and data/img. Meshes have y up, x as the track's x and z as
its -y. Meshes named TKMN<i> are strips of the road in driving order, their vertices right and left edge in turn; tracks
whose strips are missing or broken get their line from the description. Metres.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from scal3r_data_tools.formats.reading import names_file
from scal3r_data_tools.preparing.circuits.ac3d import Mesh, read_ac3d
from scal3r_data_tools.preparing.circuits.plan import Description, course, place, read_description
from scal3r_data_tools.preparing.circuits.route import (
    STEP_M,
    Route,
    banked,
    heights_below,
    resampled,
    steadiest,
    with_room,
)
from scal3r_data_tools.preparing.circuits.textures import find_file, read_texture
from scal3r_data_tools.preparing.circuits.world import Light, Material, World, by_material, corners
from scal3r_train.config import UserError

MAX_STRIP_GAP_M, MAX_STRIP_STEP_M = 0.3, 30.0
MIN_AMBIENT, MAX_DIFFUSE = 0.35, 0.8
NO_SUN = np.array([0.3, 0.9, 0.3])
SPLIT_BACKGROUND = 2


def find_tracks(root: Path) -> list[Path]:
    """Folders of the tracks below the game's data folder, by name."""
    folders = [path.parent for path in root.glob("tracks/*/*/*.xml") if path.stem == path.parent.name]
    return sorted(folders, key=lambda folder: folder.name)


@names_file("folder")
def load_circuit(folder: Path, root: Path) -> tuple[World, Route]:
    """Read a track's world and the line round it. Raises UserError for a file that is missing or damaged."""
    name = folder.name
    description = read_description(folder / f"{name}.xml")
    mesh_file = next(
        (path for path in (folder / f"{name}.acc", folder / f"{name}.ac") if path.is_file()), None
    )
    if mesh_file is None:
        raise UserError(f"{folder} has no mesh {name}.acc or {name}.ac; unpack the package again")
    meshes = read_ac3d(mesh_file)
    world = _world(
        meshes, description, [folder, root / "data" / "textures", root / "data" / "img"], mesh_file
    )
    try:
        return world, strip_route(meshes, world) or plan_route(meshes, world, description)
    except ValueError as error:
        raise UserError(f"{folder}: no line round the circuit was found: {error}") from None


def strip_route(meshes: list[Mesh], world: World) -> Route | None:
    """The line in the middle of the road's strips; None when they are not there or do not close."""
    strips = [(int(match[1]), mesh) for mesh in meshes if (match := re.fullmatch(r"TKMN(\d+)", mesh.name))]
    pairs = [mesh.vertices for _, mesh in sorted(strips, key=lambda strip: strip[0])]
    if not pairs or any(len(vertices) % 2 for vertices in pairs):
        return None
    edges = np.concatenate(pairs).reshape(-1, 2, 3)
    middle = edges.mean(1)
    jumps = np.linalg.norm(np.diff(middle, axis=0), axis=1)
    if np.linalg.norm(middle[0] - middle[-1]) > MAX_STRIP_GAP_M or jumps.max() > MAX_STRIP_STEP_M:
        return None
    width = float(np.median(np.linalg.norm(edges[:, 0] - edges[:, 1], axis=1)))
    points = resampled(middle, STEP_M)
    return Route(points, banked(points, world.positions(), width), width)


def plan_route(meshes: list[Mesh], world: World, description: Description) -> Route:
    """The line of the description, laid on the mesh. Raises ValueError when there is no road below it."""
    line = course(description)
    vertices = np.concatenate([mesh.vertices for mesh in meshes])
    line = line + place(line, description.width, vertices[:, [0, 2]] * np.array([1.0, -1.0]))
    plan = line * np.array([1.0, -1.0])
    triangles = world.positions()
    height = steadiest([with_room(heights) for heights in heights_below(plan, triangles)])
    points = resampled(np.stack([plan[:, 0], height, plan[:, 1]], 1), STEP_M)
    return Route(points, banked(points, triangles, description.width), description.width)


def _world(meshes: list[Mesh], description: Description, folders: list[Path], mesh_file: Path) -> World:
    textures: dict[str, np.ndarray] = {}
    files = [mesh_file, description.path]
    for name in sorted({name for mesh in meshes for name in (mesh.texture, mesh.shadow) if name}):
        path = find_file(name, folders)
        if path is not None:  # some tracks name textures that nobody has; the game shows them plain, too
            textures[name] = read_texture(path)
            files.append(path)
    panorama, repeats, path = _background(description, folders)
    files += [path] if path is not None else []
    triangles = by_material(_textured(mesh, textures) for mesh in meshes)
    return World(triangles, textures, panorama, repeats, _light(description), tuple(files))


def _textured(mesh: Mesh, textures: dict[str, np.ndarray]) -> tuple[Material, np.ndarray]:
    texture = mesh.texture if mesh.texture in textures else ""
    shadow = mesh.shadow if mesh.shadow in textures else ""
    triangles = corners(
        mesh.vertices[mesh.faces],
        None if mesh.normals is None else mesh.normals[mesh.faces],
        mesh.texture_coordinates,
        mesh.shadow_coordinates,
        np.ones(3) if texture else mesh.colour,
    )
    return Material(texture, shadow), triangles


def _background(description: Description, folders: list[Path]) -> tuple[np.ndarray, int, Path | None]:
    """The panorama, how often it stands around, and its file."""
    name = description.text("background image", "")
    path = find_file(name, folders) if name else None
    if path is None:
        colour = description.numbers([f"background color {c}" for c in "RGB"], 0.5)
        return np.rint(np.broadcast_to(255 * colour, (2, 4, 3))).astype(np.uint8), 1, None
    picture = read_texture(path)[..., :3]
    if (
        description.numbers(["background type"], 0)[0] == SPLIT_BACKGROUND
    ):  # two half circles, one above the other
        half = picture.shape[0] // 2
        picture = np.concatenate([picture[:half], picture[half : 2 * half]], 1)
    is_wide = picture.shape[1] >= 2 * picture.shape[0]
    return np.ascontiguousarray(picture), 1 if is_wide else 4, path


def _light(description: Description) -> Light:
    x, y, z = description.numbers([f"light position {axis}" for axis in "xyz"], 0)
    direction = np.array([x, z, -y])
    direction = direction if np.linalg.norm(direction) > 0 else NO_SUN
    return Light(
        direction / np.linalg.norm(direction),
        np.maximum(description.numbers([f"ambient color {c}" for c in "RGB"], 0.2), MIN_AMBIENT),
        np.minimum(description.numbers([f"diffuse color {c}" for c in "RGB"], 1.0), MAX_DIFFUSE),
    )
