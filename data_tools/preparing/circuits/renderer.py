"""Pictures of a world by OpenGL, without a display: on a graphics card, or on a CPU by Mesa's software rasteriser.

A picture takes two passes: colour at `supersampling` times the size, averaged, and z at the centres of the pixels.
Multisampling and anisotropic filters would look alike and cost 10 to 100 times as much on a CPU. Cameras are OpenCV's,
with pixel centres at half integers; the world has y up. Shapes: H W pixels, C cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from scal3r_data_tools.formats.optional import optional
from scal3r_data_tools.preparing.circuits import shaders
from scal3r_data_tools.preparing.circuits.world import CORNER_FLOATS, POSITION, Material, World
from scal3r_train.config import UserError

NEAR_M, FAR_M = 0.25, 4000.0
CELL_M = 60.0  # what lies outside of the picture is left out in squares of this size
SKY_DISTANCE_M = 2500.0  # as which the sky stands in fog
OPAQUE = 128
INSTALL = (
    "pip install 'scal3r_train[render]'; without a graphics card also: apt install libegl1 libgl1-mesa-dri"
)


@dataclass(frozen=True)
class Fog:
    """Its colour [3] in 0..1, and which share of the light is lost in a metre."""

    colour: np.ndarray
    per_m: float


NO_FOG = Fog(np.zeros(3), 0.0)


@dataclass(frozen=True)
class _Batch:
    """Triangles of one material on the card, and the first corner of each cell."""

    colour: Any
    depth: Any
    texture: Any
    shadow: Any
    cells: slice
    first_corner: np.ndarray


class Renderer:
    """Draws one world, into pictures of one size."""

    def __init__(self, world: World, image_hw: tuple[int, int], supersampling: int = 2) -> None:
        moderngl = optional("moderngl", "circuits", INSTALL)
        try:
            self._context: Any = moderngl.create_context(standalone=True, backend="egl")
        except Exception as error:  # each driver fails in its own way
            raise UserError(
                f"circuits needs OpenGL, and no EGL driver answers ({error}): {INSTALL}"
            ) from None
        self._gl = moderngl
        self._hw, self._scale = image_hw, supersampling
        height, width = image_hw
        large = (width * supersampling, height * supersampling)
        make = self._context
        try:
            self._colours = make.framebuffer(make.texture(large, 4), make.depth_renderbuffer(large))
            self._depths = make.framebuffer(
                make.texture((width, height), 1, dtype="f4"), make.depth_renderbuffer((width, height))
            )
        except Exception as error:  # moderngl has no class of its own for it
            raise UserError(
                f"pictures of {width} x {height}, drawn {supersampling} times as large, are more than this OpenGL "
                f"holds ({error}); lower width, height or supersampling"
            ) from None
        self._colour_programs = [
            make.program(shaders.VERTEX, shaders.colour_shader(is_cutout=cut)) for cut in (False, True)
        ]
        self._depth_programs = [
            make.program(shaders.DEPTH_VERTEX, shaders.depth_shader(is_cutout=cut)) for cut in (False, True)
        ]
        self._sky = make.program(shaders.SKY_VERTEX, shaders.SKY)
        whole = make.buffer(np.array([-1, -1, 3, -1, -1, 3], np.float32).tobytes())
        self._sky_corners = make.vertex_array(self._sky, [(whole, "2f", "corner")])
        self._panorama = self._panorama_texture(world)
        self._sky["repeats"].value = float(world.repeats)
        for program in self._colour_programs:
            program["to_sun"].value = tuple(world.light.direction)
            program["ambient"].value = tuple(world.light.ambient)
            program["diffuse"].value = tuple(world.light.diffuse)
            program["base"].value, program["shade"].value = 0, 1
        self._batches, self._low, self._high = self._upload(world)

    def render(
        self, world_from_cam: np.ndarray, intrinsics: np.ndarray, fog: Fog = NO_FOG
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return RGB [H, W, 3] float32 in 0..255 and z [H, W] float32 in metres, 0 where there is nothing.

        Args:
            world_from_cam: [3, 4].
            intrinsics: fx, fy, cx, cy in pixels.
            fog: between the camera and the world.
        """
        height, width = self._hw
        cam_from_world = np.eye(4)
        cam_from_world[:3, :3] = world_from_cam[:, :3].T
        cam_from_world[:3, 3] = -world_from_cam[:, :3].T @ world_from_cam[:, 3]
        clip_from_cam = self._projection(intrinsics)
        lens = clip_from_cam[[0, 1, 0, 1], [0, 1, 2, 2]]
        self._set_cameras(clip_from_cam @ cam_from_world, cam_from_world, fog)
        runs = self._visible_runs(clip_from_cam @ cam_from_world)

        self._colours.use()
        self._context.disable(self._gl.CULL_FACE | self._gl.DEPTH_TEST)
        self._colours.clear(0, 0, 0, 1, 1.0)
        self._draw_sky(world_from_cam, lens, fog)
        self._context.enable(self._gl.DEPTH_TEST)
        for batch, pieces in runs:
            batch.texture.use(0)
            batch.shadow.use(1)
            for first, num in pieces:
                batch.colour.render(self._gl.TRIANGLES, vertices=num, first=first)
        large = np.frombuffer(self._colours.read(components=3, alignment=1), np.uint8)
        blocks = large.reshape(height, self._scale, width, self._scale, 3)
        image = blocks.sum((1, 3), dtype=np.uint32).astype(np.float32) / self._scale**2

        self._depths.use()
        self._depths.clear(0, 0, 0, 0, 1.0)
        for batch, pieces in runs:
            batch.texture.use(0)
            for first, num in pieces:
                batch.depth.render(self._gl.TRIANGLES, vertices=num, first=first)
        depth = np.frombuffer(self._depths.read(components=1, alignment=1, dtype="f4"), np.float32)
        return image, depth.reshape(height, width)

    def close(self) -> None:
        """Free what is on the card."""
        self._context.release()

    def _projection(self, intrinsics: np.ndarray) -> np.ndarray:
        """Clip space from camera [4, 4]; rows are not flipped: the buffer's first row is the picture's top one."""
        height, width = self._hw
        fx, fy, cx, cy = intrinsics
        near, far = NEAR_M, FAR_M
        return np.array(
            [
                [2 * fx / width, 0, 2 * cx / width - 1, 0],
                [0, 2 * fy / height, 2 * cy / height - 1, 0],
                [0, 0, (far + near) / (far - near), -2 * far * near / (far - near)],
                [0, 0, 1, 0],
            ]
        )

    def _set_cameras(self, clip_from_world: np.ndarray, cam_from_world: np.ndarray, fog: Fog) -> None:
        for program in (*self._colour_programs, *self._depth_programs):
            program["clip_from_world"].write(_column_major(clip_from_world))
            program["cam_from_world"].write(_column_major(cam_from_world))
        for program in self._colour_programs:
            program["fog_per_m"].value, program["fog_colour"].value = fog.per_m, tuple(fog.colour)

    def _draw_sky(self, world_from_cam: np.ndarray, lens: np.ndarray, fog: Fog) -> None:
        self._panorama.use(0)
        self._sky["world_from_cam"].write(_column_major(world_from_cam[:, :3]))
        self._sky["lens"].value = tuple(lens)
        self._sky["hidden"].value = float(1 - np.exp(-fog.per_m * SKY_DISTANCE_M))
        self._sky["fog_colour"].value = tuple(fog.colour)
        self._sky_corners.render(self._gl.TRIANGLES)

    def _visible_runs(self, clip_from_world: np.ndarray) -> list[tuple[_Batch, list[tuple[int, int]]]]:
        """Per batch with something in the picture: first corner and number of corners of neighbouring cells."""
        x, y, z, w = clip_from_world
        visible = np.ones(len(self._low), bool)
        for plane in (
            w + x,
            w - x,
            w + y,
            w - y,
            w + z,
            w - z,
        ):  # a cell's farthest corner along the plane's normal
            corner = np.where(plane[:3] > 0, self._high, self._low)
            visible &= corner @ plane[:3] + plane[3] >= 0
        runs = []
        for batch in self._batches:
            seen = visible[batch.cells]
            if not seen.any():
                continue
            change = np.flatnonzero(np.diff(np.concatenate([[False], seen, [False]])))
            first = batch.first_corner
            runs.append(
                (
                    batch,
                    [(int(first[a]), int(first[b] - first[a])) for a, b in change.reshape(-1, 2)],
                )
            )
        return runs

    def _panorama_texture(self, world: World) -> Any:
        height, width = world.panorama.shape[:2]
        texture = self._context.texture((width, height), 3, world.panorama.tobytes(), alignment=1)
        texture.repeat_y = False
        texture.filter = (self._gl.LINEAR, self._gl.LINEAR)
        return texture

    def _texture(self, pixels: np.ndarray) -> Any:
        height, width = pixels.shape[:2]
        texture = self._context.texture((width, height), 4, pixels[::-1].tobytes())
        texture.build_mipmaps()
        texture.filter = (self._gl.LINEAR_MIPMAP_LINEAR, self._gl.LINEAR)
        return texture

    def _upload(self, world: World) -> tuple[list[_Batch], np.ndarray, np.ndarray]:
        """Put triangles, sorted by cell, and textures on the card; also the boxes of all cells [C, 3], low and high."""
        on_card = {name: self._texture(pixels) for name, pixels in world.textures.items()}
        on_card[""] = self._texture(np.full((1, 1, 4), 255, np.uint8))
        batches: list[_Batch] = []
        lows, highs, num_cells = [], [], 0
        for material, triangles in world.triangles.items():
            ordered, first = _by_cell(triangles)
            points = ordered[..., POSITION]
            lows.append(np.minimum.reduceat(points.min(1), first[:-1]))
            highs.append(np.maximum.reduceat(points.max(1), first[:-1]))
            cells = slice(num_cells, num_cells + len(first) - 1)
            num_cells = cells.stop
            batches.append(self._batch(world, material, ordered, on_card, cells, first))
        return batches, np.concatenate(lows), np.concatenate(highs)

    def _batch(
        self,
        world: World,
        material: Material,
        triangles: np.ndarray,
        on_card: dict[str, Any],
        cells: slice,
        first: np.ndarray,
    ) -> _Batch:
        is_cutout = bool(material.texture) and int(world.textures[material.texture][..., 3].min()) < OPAQUE
        vertices, indices = _shared(triangles)
        buffer, order = (self._context.buffer(array.tobytes()) for array in (vertices, indices))
        names = ("position", "normal", "texture_at", "shadow_at", "colour")
        colour = (buffer, "3f 3f 2f 2f 3f", *names)
        depth = (
            (buffer, "3f 12x 2f 20x", "position", "texture_at")
            if is_cutout
            else (buffer, "3f 40x", "position")
        )
        return _Batch(
            self._context.vertex_array(self._colour_programs[is_cutout], [colour], order),
            self._context.vertex_array(self._depth_programs[is_cutout], [depth], order),
            on_card[material.texture],
            on_card[material.shadow],
            cells,
            3 * first,
        )


def _by_cell(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangles in the order of their cells, and where each cell begins, with the end."""
    middle = triangles[..., POSITION].mean(1)
    _, cell = np.unique(np.floor(middle[:, [0, 2]] / CELL_M).astype(np.int64), axis=0, return_inverse=True)
    cell = cell.ravel()
    order = np.argsort(cell, kind="stable")
    starts = np.flatnonzero(np.diff(cell[order], prepend=-1))
    return triangles[order], np.concatenate([starts, [len(cell)]])


def _shared(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners that are all different, and for each corner of the triangles which one it is: a third of the work."""
    rows = np.ascontiguousarray(triangles.reshape(-1, CORNER_FLOATS))
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * CORNER_FLOATS))).ravel()
    _, first, indices = np.unique(keys, return_index=True, return_inverse=True)
    # numbered by their first use, so that what is drawn together lies together
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rows[first[order]], rank[indices.ravel()].astype(np.uint32)


def _column_major(matrix: np.ndarray) -> bytes:
    return np.ascontiguousarray(matrix.T, np.float32).tobytes()
