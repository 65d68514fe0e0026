"""One browser window of the viewer, drawn by a thread of its own; slow work waits until nothing was set for a while."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from scal3r_train.config import UserError
from scal3r_train.notes import tell
from scal3r_train.scene.visualization.camera_drawing import (
    Frustum,
    draw_cameras,
    draw_frustum,
    pose_of,
    vertical_fov,
)
from scal3r_train.scene.visualization.controls import Actions, Controls
from scal3r_train.scene.visualization.viewed_scene import ViewedScene

if TYPE_CHECKING:
    from viser import ClientHandle

SLOW = {"points", "view"}  # what waits until nothing was set for REST_S, but never longer than MAX_REST_S
REST_S, MAX_REST_S = 0.15, 1.0
POLL_S = 2.0  # how often the folder is checked for a newer scene
PICTURE_SIDE = 320
MILLION = 1_000_000
SCREENSHOT_HW = (1080, 1920)
CURRENT = (255, 255, 255)  # colour of the frame that is chosen
SAME_SHARE = 0.9  # of the points in view that are sent already, above which a look changes nothing
POINT_SIZE = 0.9  # of the distance between points


class ClientView:
    """One window: its panel, what it shows, and the thread that draws."""

    def __init__(
        self,
        client: ClientHandle,
        shown: Callable[[], ViewedScene],
        reload: Callable[[], None],
        is_rewritten: Callable[[], bool],
    ) -> None:
        """Build the panel and start drawing.

        Args:
            client: the window.
            shown: gives the scene as it is now.
            reload: reads the folder again and lets all windows draw.
            is_rewritten: whether the folder holds a newer scene.
        """
        self._client, self._shown, self._reload, self._is_rewritten = client, shown, reload, is_rewritten
        self._changed = threading.Condition()
        self._todo: set[str] = set()
        self._latest = self._first = 0.0  # when slow work was asked for
        self._base = np.zeros(0, np.int64)
        self._missing = np.zeros(0, np.int64)
        self._detail = np.zeros(0, np.int64)
        self._is_playing = False
        self._is_open = True
        self._controls = self._build(shown())
        client.camera.on_update(lambda _: self._request("view"))
        threading.Thread(target=self._work, daemon=True).start()
        self._request("points", "cameras", "frame")

    def refresh(self) -> None:
        """Draw everything again, for another scene."""
        self._request("panel", "points", "cameras", "frame")

    def close(self) -> None:
        """Stop drawing."""
        with self._changed:
            self._is_open = self._is_playing = False
            self._changed.notify()

    def _build(self, shown: ViewedScene) -> Controls:
        self._client.gui.configure_theme(dark_mode=True, show_share_button=False, show_logo=False)
        self._client.scene.set_background_image(np.full((2, 2, 3), (16, 20, 27), np.uint8))
        actions = Actions(
            points=lambda: self._request("points"),
            cameras=lambda: self._request("cameras"),
            frame=lambda: self._request("frame"),
            play=self._play,
            screenshot=self._save_screenshot,
            reload=self._read_again,
        )
        return Controls(self._client.gui, shown, actions)

    def _request(self, *what: str) -> None:
        """Have something drawn again by the window's thread."""
        with self._changed:
            now = time.monotonic()
            if SLOW & set(what):
                self._latest = now
                self._first = self._first if SLOW & self._todo else now
            self._todo.update(what)
            self._changed.notify()

    def _work(self) -> None:
        """Draw whatever was asked for, until the window closes."""
        while self._is_open:
            with self._changed:
                if not self._todo:
                    self._changed.wait(POLL_S)
                rest = min(self._latest + REST_S, self._first + MAX_REST_S) - time.monotonic()
                todo = self._todo if rest <= 0 else self._todo - SLOW
                self._todo = self._todo - todo
            if not self._is_open:
                return
            try:
                self._draw(todo)
            except UserError as error:
                self._client.add_notification("The scene cannot be read", str(error), color="red")
            except RuntimeError as error:
                if self._is_open:
                    tell(f"scal3r: a window was not drawn: {error}")
            if self._todo and not todo:
                time.sleep(max(rest, 0.0))

    def _draw(self, todo: set[str]) -> None:
        if not todo and self._controls.reloads_itself.value and self._is_rewritten():
            self._reload()
        shown, controls, scene = self._shown(), self._controls, self._client.scene
        if "panel" in todo:
            controls.fit(shown)
        if "frame" in todo:
            self._draw_frame(shown)
        if "cameras" in todo:
            with self._client.atomic():
                draw_cameras(scene, shown, controls)
        if "points" in todo:
            self._draw_base(shown)
        if todo & {"points", "view"} and controls.detail.value:
            self._draw_detail(shown)

    def _draw_base(self, shown: ViewedScene) -> None:
        """Draw the points that cover everything evenly."""
        controls, levels = self._controls, shown.levels
        level = min(int(controls.level.value), len(levels.voxel_sizes) - 1)
        least = -np.inf
        if controls.doubt.value and len(levels):
            least = float(np.quantile(levels.confidence[:200_000], controls.doubt.value / 100))
        passing = levels.passing(least, level, controls.frames(shown))
        budget = round(controls.budget.value * MILLION)
        num_base = budget // 2 if controls.detail.value and len(passing) > budget else budget
        self._base, self._missing = passing[:num_base], passing[num_base:]
        # Together with those in view they lie closer, and larger ones would hide what is added.
        spacing = levels.spacing_of(passing[:budget][-1:])
        self._cloud("/points/everywhere", shown, self._base, spacing)
        self._cloud("/points/in view", shown, self._base[:0], 1.0)
        self._detail = self._base[:0]
        shown_size = levels.voxel_sizes[level] / float(shown.shown_from_world.scale)
        size = f"voxels of {shown_size:.3g} {shown.scene.info.units}" if level else "no voxels"
        controls.voxel_size.content = f"{size}, confidence at least {max(least, 0):.3g}"
        num_shown = min(len(passing), budget)
        controls.count.content = f"{num_shown:,} of {len(levels):,} points"

    def _draw_detail(self, shown: ViewedScene) -> None:
        """Draw more points where the camera looks."""
        budget = round(self._controls.budget.value * MILLION) - len(self._base)
        if not len(self._missing) or budget <= 0:
            return
        camera = self._client.camera
        ahead = camera.look_at - camera.position
        chosen = shown.levels.near(self._missing, budget, camera.position, ahead)
        if len(chosen) == len(self._detail):
            share = len(np.intersect1d(chosen, self._detail, assume_unique=True)) / len(chosen)
            if share > SAME_SHARE:
                return
        self._detail = chosen
        self._cloud("/points/in view", shown, chosen, shown.levels.spacing_of(chosen))

    def _cloud(self, name: str, shown: ViewedScene, index: np.ndarray, spacing: float) -> None:
        """Replace a cloud; what was sent stays until the new one is there."""
        if not len(index):
            self._client.scene.remove_by_name(name)
            return
        self._client.scene.add_point_cloud(
            name,
            shown.levels.positions[index],
            shown.point_colours(index, self._controls.colour.value),
            point_size=POINT_SIZE * self._controls.size.value * spacing,
            point_shape="rounded",
            point_shading="flat",
            precision="float32",
        )

    def _draw_frame(self, shown: ViewedScene) -> None:
        """Draw the camera of the frame that is chosen, and its image; look through it if asked to."""
        controls, client = self._controls, self._client
        frame = min(int(controls.frame.value), len(shown.world_from_cam) - 1)
        image = shown.images.of(frame, PICTURE_SIDE)
        controls.picture.visible = image is not None
        if image is not None:
            controls.picture.image = image
        if controls.ride.value:
            client.scene.remove_by_name("/frame")
            wxyz, position = pose_of(shown.world_from_cam[frame])
            with client.atomic():
                client.camera.wxyz, client.camera.position = wxyz, position
                client.camera.fov = vertical_fov(shown, frame)
        else:
            frustum = Frustum(frame, CURRENT, 1.5 * controls.frustum_size.value, image)
            draw_frustum(client.scene, "/frame", shown, frustum)
        if controls.so_far.value:
            self._request("points")

    def _play(self) -> None:
        with self._changed:
            self._is_playing = starts = not self._is_playing
        if starts:
            threading.Thread(target=self._advance, daemon=True).start()

    def _advance(self) -> None:
        """Move the frame on until paused."""
        while self._is_playing and self._is_open:
            controls = self._controls
            last = len(self._shown().world_from_cam) - 1
            controls.frame.value = 0 if controls.frame.value >= last else int(controls.frame.value) + 1
            self._request("frame")
            time.sleep(1 / controls.speed.value)

    def _save_screenshot(self) -> None:
        """Let the browser save what it shows."""
        pixels = self._client.get_render(*SCREENSHOT_HW, transport_format="png")
        stream = io.BytesIO()
        Image.fromarray(pixels[..., :3]).save(stream, "PNG", optimize=True)
        frame = int(self._controls.frame.value)
        name = f"scal3r_frame_{frame:06d}.png"
        self._client.send_file_download(name, stream.getvalue(), save_immediately=True)

    def _read_again(self) -> None:
        try:
            self._reload()
        except UserError as error:
            self._client.add_notification("The scene cannot be read", str(error), color="red")
