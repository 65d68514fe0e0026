"""`scal3r view`: a scene in the browser, with points, cameras, loops and ground truth (viser)."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from scal3r_train.config import UserError
from scal3r_train.notes import answer
from scal3r_train.scene.visualization.client_view import ClientView
from scal3r_train.scene.visualization.viewed_scene import EXTENT, ViewedScene, stamp_of

if TYPE_CHECKING:
    from viser import ClientHandle, ViserServer

HOST, PORT = "127.0.0.1", 8080


def main(folder: Path, port: int | None, host: str, truth: str | None, max_points: int | None) -> int:
    """Show a scene until Ctrl-C; returns 0.

    Args:
        folder: of the scene; it may be rewritten meanwhile.
        port: to listen at, 0 for any that is free; None: 8080 or the next free one.
        host: address to listen at.
        truth: as `load_ground_truth` takes it.
        max_points: read at most so many points, drawn evenly.

    Raises:
        UserError: viser is missing, the scene or the truth cannot be read, or the port is taken.
    """
    if max_points is not None and max_points < 1:
        raise UserError(f"--max-points is {max_points}; give a number of points")
    if port is not None and port not in range(1 << 16):
        raise UserError(f"--port is {port}; give one from 0 (any that is free) to 65535")
    with viewing(folder, port, host, truth, max_points) as url, contextlib.suppress(KeyboardInterrupt):
        answer(f"{folder} is shown at {url} (Ctrl-C ends)")
        sys.stdout.flush()
        threading.Event().wait()
    return 0


@contextlib.contextmanager
def viewing(
    folder: Path,
    port: int | None = 0,
    host: str = HOST,
    truth: str | None = None,
    max_points: int | None = None,
) -> Iterator[str]:
    """Show a scene while the body runs, and give its URL; raises as `main`."""
    if importlib.util.find_spec("viser") is None:
        raise UserError("scal3r view needs viser; run pip install 'scal3r_train[view]'")
    viewer = Viewer(folder, truth, max_points)
    server = _server(host, port)
    try:
        viewer.serve(server)
        yield f"http://{host}:{server.get_port()}"
    finally:
        viewer.close()
        with _quiet():
            server.stop()


class Viewer:
    """A scene and the windows that show it."""

    def __init__(self, folder: Path, truth: str | None, max_points: int | None) -> None:
        """Read the scene; raises UserError where that fails."""
        self._folder, self._truth, self._max_points = folder, truth, max_points
        self.shown = ViewedScene.load(folder, truth, max_points)
        self._windows: dict[int, ClientView] = {}
        self._lock = threading.Lock()

    def serve(self, server: ViserServer) -> None:
        """Let a server show the scene in every window that opens."""
        camera = server.initial_camera
        # To the right of the middle, since the panel covers the right.
        aside = 0.08 * EXTENT
        camera.position, camera.look_at = (aside, -0.95 * EXTENT, 0.75 * EXTENT), (aside, 0.0, 0.0)
        camera.fov, camera.near, camera.far = 0.9, EXTENT * 1e-4, EXTENT * 50

        @server.on_client_connect
        def _(client: ClientHandle) -> None:
            window = ClientView(client, lambda: self.shown, self.reload, self.is_rewritten)
            with self._lock:
                self._windows[client.client_id] = window

        @server.on_client_disconnect
        def _(client: ClientHandle) -> None:
            with self._lock:
                window = self._windows.pop(client.client_id, None)
            if window is not None:
                window.close()

    def is_rewritten(self) -> bool:
        """Whether the folder holds another scene than the one that is shown; a folder that is gone holds none."""
        return stamp_of(self._folder) not in (self.shown.stamp, (0, 0))

    def reload(self) -> None:
        """Read the folder again and show what it holds; raises UserError where that fails."""
        shown = ViewedScene.load(self._folder, self._truth, self._max_points)
        with self._lock:
            self.shown = shown
            windows = list(self._windows.values())
        for window in windows:
            window.refresh()

    def close(self) -> None:
        """Let all windows stop drawing."""
        with self._lock:
            windows = list(self._windows.values())
        for window in windows:
            window.close()


def _server(host: str, port: int | None) -> ViserServer:
    """Return a server that listens and prints nothing."""
    import viser  # noqa: PLC0415

    # A window may close while it is drawn.
    warnings.filterwarnings("ignore", message="Queued a .* on a closed connection")
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    with _quiet():
        server = viser.ViserServer(
            host=host, port=PORT if port is None else port, label="Scal3R", verbose=False
        )
    if port and server.get_port() != port:
        with _quiet():
            server.stop()
        raise UserError(f"port {port} is taken; give another one with --port")
    return server


def _quiet() -> contextlib.redirect_stdout[io.StringIO]:
    """Hide what viser prints in any case; our own line says where the scene is shown."""
    return contextlib.redirect_stdout(io.StringIO())
