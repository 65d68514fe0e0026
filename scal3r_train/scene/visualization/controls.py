"""The viewer's panel: what can be set, and what is drawn again when it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scal3r_train.scene.visualization.viewed_scene import COLOURS, ViewedScene

if TYPE_CHECKING:
    from viser import GuiApi

MAX_MILLIONS, FIRST_MILLIONS, LEAST_MILLIONS = 10.0, 1.0, 0.05
MAX_FIRST_FRUSTA = 60
FRAMES_PER_SECOND = 10


@dataclass(frozen=True)
class Actions:
    """What happens when something is set: `points`, `cameras` and `frame` say what has to be drawn again."""

    points: Callable[[], None]
    cameras: Callable[[], None]
    frame: Callable[[], None]
    play: Callable[[], None]
    screenshot: Callable[[], None]
    reload: Callable[[], None]


class Controls:
    """The panel of one browser window."""

    def __init__(self, gui: GuiApi, shown: ViewedScene, actions: Actions) -> None:
        """Build the panel for a scene."""
        self.summary = gui.add_markdown(_summary(shown))
        self._add_points(gui, shown, actions)
        self._add_cameras(gui, shown, actions)
        self._add_time(gui, shown, actions)
        self.screenshot = gui.add_button("Screenshot", hint="Saves what is seen as a PNG file.")
        self.reload = gui.add_button("Reload", hint="Reads the scene folder again.")
        self.reloads_itself = gui.add_checkbox("Reload when rewritten", initial_value=False)
        self.screenshot.on_click(lambda _: actions.screenshot())
        self.reload.on_click(lambda _: actions.reload())

    def _add_points(self, gui: GuiApi, shown: ViewedScene, actions: Actions) -> None:
        most = _most_millions(shown)
        self.voxel_sizes = shown.levels.voxel_sizes
        with gui.add_folder("Points"):
            self.count = gui.add_markdown("")
            self.budget: Any = gui.add_slider(
                "Millions",
                LEAST_MILLIONS,
                float(most),
                0.05,
                float(min(FIRST_MILLIONS, most)),
                hint="How many points are shown; half of them where the view needs them most.",
            )
            self.detail = gui.add_checkbox(
                "Detail in view", True, hint="Half of the points go where the view needs them most."
            )
            self.doubt = gui.add_slider(
                "Hide doubtful %",
                0,
                99,
                1,
                0,
                hint="Hides this share of the points, the least confident ones.",
            )
            self.level: Any = gui.add_slider(
                "Voxel",
                0,
                max(len(self.voxel_sizes) - 1, 1),
                1,
                0,
                hint="0: all points; each step doubles the voxels.",
            )
            self.voxel_size = gui.add_markdown("")
            self.size = gui.add_slider("Point size", 0.1, 4.0, 0.1, 1.0)
            self.colour = gui.add_dropdown("Colour", COLOURS, initial_value=COLOURS[0])
            last = max(len(shown.chunk_colours) - 1, 1)
            self.chunks: Any = gui.add_multi_slider(
                "Chunks", 0, last, 1, (0, last), hint="Shows points and cameras of these chunks only."
            )
        for handle in (self.budget, self.detail, self.doubt, self.level, self.size, self.colour):
            _on_update(handle, actions.points)
        _on_update(self.chunks, actions.points, actions.cameras)

    def _add_cameras(self, gui: GuiApi, shown: ViewedScene, actions: Actions) -> None:
        num_frames = len(shown.world_from_cam)
        with gui.add_folder("Cameras"):
            self.frusta = gui.add_checkbox("Frusta", True)
            every = max(1, -(-num_frames // MAX_FIRST_FRUSTA))
            self.every = gui.add_slider("Every n-th", 1, max(num_frames // 4, every, 2), 1, every)
            self.frustum_size = gui.add_slider("Size", 0.1, 5.0, 0.1, 1.0)
            self.thumbnails = gui.add_checkbox(
                "Images", False, hint="Shows the input images, where they are found."
            )
            self.path = gui.add_checkbox("Trajectory", True)
            self.loops = gui.add_checkbox("Loops", True, visible=bool(shown.scene.info.loops))
            self.truth = gui.add_checkbox("Ground truth", True, visible=shown.truth is not None)
        for handle in (
            self.frusta,
            self.every,
            self.frustum_size,
            self.thumbnails,
            self.path,
            self.loops,
            self.truth,
        ):
            _on_update(handle, actions.cameras)

    def _add_time(self, gui: GuiApi, shown: ViewedScene, actions: Actions) -> None:
        last = max(len(shown.world_from_cam) - 1, 1)
        with gui.add_folder("Time"):
            self.frame: Any = gui.add_slider("Frame", 0, last, 1, 0)
            self.play = gui.add_button("Play / pause")
            self.speed = gui.add_slider("Frames a second", 1, 60, 1, FRAMES_PER_SECOND)
            self.ride = gui.add_checkbox("Ride along", False, hint="Looks through the camera of the frame.")
            self.so_far = gui.add_checkbox("Only what was seen so far", False, visible=shown.knows_frames)
            self.picture: Any = gui.add_image(np.zeros((2, 2, 3), np.uint8), visible=False)
        _on_update(self.frame, actions.frame)
        _on_update(self.ride, actions.frame)
        _on_update(self.so_far, actions.points)
        self.play.on_click(lambda _: actions.play())

    def fit(self, shown: ViewedScene) -> None:
        """Fit the panel to another scene; what was set stays where it still can."""
        self.summary.content = _summary(shown)
        self.voxel_sizes = shown.levels.voxel_sizes
        self.budget.max = _most_millions(shown)
        self.level.max = max(len(self.voxel_sizes) - 1, 1)
        self.frame.max = max(len(shown.world_from_cam) - 1, 1)
        first, last = self.chunks.value
        was_open, self.chunks.max = last >= self.chunks.max, max(len(shown.chunk_colours) - 1, 1)
        last = self.chunks.max if was_open else min(last, self.chunks.max)
        self.chunks.value = (min(first, last), last)
        self.budget.value = min(self.budget.value, self.budget.max)
        self.level.value = min(self.level.value, self.level.max)
        self.frame.value = min(self.frame.value, self.frame.max)
        self.loops.visible = bool(shown.scene.info.loops)
        self.truth.visible = shown.truth is not None
        self.so_far.visible = shown.knows_frames

    def frames(self, shown: ViewedScene) -> tuple[int, int] | None:
        """Return the frames [start, stop) whose points are wanted, None for all."""
        first, last = self.chunks.value
        provided = shown.scene.info.provided_frames
        start, stop = provided[min(first, len(provided) - 1)][0], provided[min(last, len(provided) - 1)][1]
        if self.so_far.value:
            stop = min(stop, int(self.frame.value) + 1)
        return None if (start, stop) == (0, len(shown.world_from_cam)) else (start, stop)


def _most_millions(shown: ViewedScene) -> float:
    return max(2 * LEAST_MILLIONS, min(MAX_MILLIONS, float(np.ceil(len(shown.levels) / 1e4) / 1e2)))


def _on_update(handle: Any, *actions: Callable[[], None]) -> None:
    def run_actions(_: object) -> None:
        for action in actions:
            action()

    handle.on_update(run_actions)


def _summary(shown: ViewedScene) -> str:
    """Return what is looked at; names come from files, so they are shown as code, which holds no markup."""
    info = shown.scene.info
    name = str(info.input.get("sequence_id", "scene")).replace("`", "'")
    trusted = sum(bool(seam.get("trusted")) for seam in info.seams)
    accepted = sum(bool(loop.get("accepted")) for loop in info.loops)
    lines = [
        f"**`{name}`**",
        f"{info.num_frames:,} frames, {len(info.chunks)} chunks, {info.num_points:,} points",
        f"{trusted} of {len(info.seams)} seams trusted, {accepted} of {len(info.loops)} loops accepted",
    ]
    if info.breaks:
        lines.append(f"**torn at {len(info.breaks)} places**")
    if shown.truth is not None:
        lines.append(shown.truth.line)
    return "  \n".join(lines)
