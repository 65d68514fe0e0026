"""Circuits of SuperTuxKart: tracks/TRACK/{scene.xml, quads.xml, graph.xml, meshes, textures}.

The line is the main loop of graph.xml through the quadrangles of quads.xml, laid on the surface below. The game's z is
turned round, since its world is left-handed. Its unit is about a metre, but nothing is to scale.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scal3r_data_tools.formats.reading import names_file
from scal3r_data_tools.preparing.circuits.kart_scene import Look, looks, placed_models, vector
from scal3r_data_tools.preparing.circuits.route import STEP_M, Route, banked, heights_below, resampled
from scal3r_data_tools.preparing.circuits.safe_xml import parse_xml
from scal3r_data_tools.preparing.circuits.spm import Buffer, read_spm
from scal3r_data_tools.preparing.circuits.textures import find_file, read_texture
from scal3r_data_tools.preparing.circuits.world import Light, Material, World, by_material, corners
from scal3r_train.config import UserError

TO_RIGHT_HANDED = np.array([1.0, 1.0, -1.0])
NOT_TRACKS = frozenset(("overworld", "tutorial"))
UNSHOWN = ("additive", "displace")  # glows, and water that is only waves
CUT_OUT = ("alphatest", "alphablend", "grass")
USED_WIDTH = 0.5  # of the width of the quadrangles, which reach over kerbs
MAX_RISE_M = 2.0
MAX_GAP_M = 15.0
SKY_SIDE = 512
AROUND = (4, 2, 5, 3)  # of the box's six pictures, those around, as the panorama goes
OVERHEAD = np.array([0.0, 1.0, 0.0])
DEFAULT_SKY, SKY_SHADES = "150 190 230", (0.9, 1.15)


def find_tracks(root: Path) -> list[Path]:
    """Folders of the tracks with a loop below the game's data folder, by name."""
    folders = {path.parent for path in root.glob("tracks/*/quads.xml")}
    return sorted(folder for folder in folders if folder.name not in NOT_TRACKS)


@names_file("folder")
def load_circuit(folder: Path, data: Path) -> tuple[World, Route]:
    """Read a track's world and the line round it. Raises UserError for a file that is missing or damaged."""
    world = _world(folder, data)
    try:
        return world, _route(folder, world)
    except (ValueError, IndexError) as error:
        raise UserError(f"{folder}: no line round the circuit was found: {error}") from None


def _route(folder: Path, world: World) -> Route:
    fronts, end = _loop(folder)
    middle = fronts.mean(1)
    if np.linalg.norm(end - middle[0]) > MAX_GAP_M:
        raise ValueError("its loop does not close")
    width = USED_WIDTH * float(np.median(np.linalg.norm(fronts[:, 0] - fronts[:, 1], axis=1)))
    points = resampled(middle, STEP_M)
    triangles = world.positions()
    for point, heights in zip(points, heights_below(points[:, [0, 2]], triangles), strict=True):
        if len(heights):
            nearest = heights[np.abs(heights - point[1]).argmin()]
            point[1] = nearest if abs(nearest - point[1]) <= MAX_RISE_M else point[1]
    return Route(points, banked(points, triangles, width), width)


def _loop(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Front edges [N, 2, 3] of the main loop's quadrangles in driving order, and the middle [3] of the last's end."""
    quads: list[list[np.ndarray]] = []
    for element in parse_xml(folder / "quads.xml").iter("quad"):
        quads.append([_corner(element.get(f"p{i}", ""), quads) for i in range(4)])
    loop = parse_xml(folder / "graph.xml").find("edge-loop")
    first, last = (0, len(quads) - 1) if loop is None else (int(loop.get(key, "")) for key in ("from", "to"))
    corner = np.array(quads[first : last + 1]) * TO_RIGHT_HANDED
    return corner[:, :2], corner[-1, 2:].mean(0)


def _corner(text: str, quads: list[list[np.ndarray]]) -> np.ndarray:
    """Three numbers, or N:M for corner M of quadrangle N."""
    if ":" in text:
        number, corner = (int(word) for word in text.split(":"))
        return quads[number][corner]
    return np.array([float(word) for word in text.split()]).reshape(3)


def _world(folder: Path, data: Path) -> World:
    shown = looks(folder, data)
    textures: dict[str, np.ndarray] = {}
    files = [folder / "scene.xml"]
    meshes: dict[Path, list[Buffer]] = {}
    pieces = []
    for placed in placed_models(folder, data):
        path = find_file(placed.model, [placed.folder, folder, data / "models"])
        if path is None:
            continue
        if path not in meshes:
            meshes[path] = read_spm(path)
            files.append(path)
        for buffer in meshes[path]:
            look = shown.get(buffer.texture, Look("solid", ""))
            if not len(buffer.faces) or look.shader in UNSHOWN:
                continue
            folders = [path.parent, folder, data / "textures", data / "models"]
            name = _load(buffer.texture, look, folders, textures, files)
            pieces.append((Material(name), _triangles(buffer, placed.world_from_model)))
    scene = parse_xml(folder / "scene.xml")
    panorama = _panorama(scene.find("sky-box"), [folder, data / "textures"], files)
    if panorama is None:
        colour = vector(scene.find("sky-color"), "rgb", DEFAULT_SKY)
        shades = np.linspace(*SKY_SHADES, 64)[:, None, None]
        panorama = np.clip(shades * colour * np.ones((1, 128, 1)), 0, 255).astype(np.uint8)
    sun = scene.find("sun")
    direction = vector(sun, "xyz", "0 100 0") * TO_RIGHT_HANDED
    direction = direction if np.linalg.norm(direction) > 0 else OVERHEAD
    light = Light(
        direction / np.linalg.norm(direction),
        np.maximum(vector(sun, "ambient", "120 120 120") / 255, 0.35),
        vector(sun, "sun-diffuse", "220 220 200") / 255,
    )
    return World(by_material(pieces), textures, panorama, 1, light, tuple(files))


def _triangles(buffer: Buffer, world_from_model: np.ndarray) -> np.ndarray:
    linear = world_from_model[:3, :3]
    positions = (buffer.positions @ linear.T + world_from_model[:3, 3]) * TO_RIGHT_HANDED
    normals = (buffer.normals @ np.linalg.pinv(linear)) * TO_RIGHT_HANDED
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    coordinates = buffer.coordinates * np.array([1, -1]) + np.array([0, 1])  # v = 0 becomes the bottom
    faces = buffer.faces
    return corners(positions[faces], normals[faces], coordinates[faces], None, buffer.colours[faces])


def _load(
    name: str, look: Look, folders: list[Path], textures: dict[str, np.ndarray], files: list[Path]
) -> str:
    """The name of a texture once it is loaded, "" when there is none or nobody has it."""
    if name in textures or not name:
        return name
    path = find_file(name, folders)
    if path is None:
        return ""
    pixels = read_texture(path).copy()
    files.append(path)
    mask = find_file(look.mask, folders) if look.mask else None
    if look.shader not in CUT_OUT:
        pixels[..., 3] = 255
    elif mask is not None:
        opacity = read_texture(mask)[..., 0]
        if opacity.shape == pixels.shape[:2]:
            pixels[..., 3] = opacity
    textures[name] = pixels
    return name


def _panorama(box: object, folders: list[Path], files: list[Path]) -> np.ndarray | None:
    """The four sides of a sky box in a row [H, W, 3]; None when there is no box or a picture is missing."""
    names = [] if box is None else str(box.get("texture", "")).split()  # type: ignore[attr-defined]
    paths = [find_file(names[side], folders) for side in AROUND] if len(names) == 6 else [None]
    found = [path for path in paths if path is not None]
    if len(found) < len(paths):
        return None
    files += found
    sides = []
    for path in found:
        pixels = read_texture(path)[..., :3]
        rows, columns = (np.arange(SKY_SIDE) * side // SKY_SIDE for side in pixels.shape[:2])
        sides.append(pixels[rows[:, None], columns])
    return np.concatenate(sides, 1)
