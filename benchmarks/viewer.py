"""The viewer with a large cloud: time until points are seen, bytes sent for them, memory of the server.

python -m benchmarks.viewer [--points 10000000]
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from scal3r_train.scene.folder import partial_folder, publish_scene_folder, start_scene_folder
from scal3r_train.scene.point_cloud import PointCloud
from scal3r_train.scene.scene import SceneCameras, load_scene, write_scene
from scal3r_train.scene.visualization.viewed_scene import ViewedScene
from tests.scene.visualization.browser import chromium_page, find_chromium
from tests.scene.visualization.example_scene import IMAGE_HW, write_example_scene

MIB = 1 << 20
LIMIT_S = 300.0
STREET_M, HALF_WIDTH_M, FACADE_M = 3000.0, 8.0, 15.0


def main() -> None:
    """Print one line per number."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=10_000_000)
    number = parser.parse_args().points
    with tempfile.TemporaryDirectory() as folder:
        scene = street_scene(Path(folder) / "scene", number)
        print(f"{number:,} points, points.ply of {(scene / 'points.ply').stat().st_size / MIB:.0f} MiB")
        measure_parts(scene)
        if find_chromium() is None:
            print("no Chromium: nothing is shown (make chromium)")
        else:
            measure_window(scene)


def street_scene(folder: Path, number: int) -> Path:
    """Write a street of 3 km with facades and `number` points, seen by 40 cameras."""
    write_example_scene(folder)
    scene = load_scene(folder)
    random = np.random.default_rng(0)
    along = random.uniform(0, STREET_M, number)
    across = random.uniform(-HALF_WIDTH_M, HALF_WIDTH_M, number)
    height = random.uniform(0, FACADE_M, number)
    is_road = random.random(number) < 0.4
    across = np.where(is_road, across, np.sign(across) * HALF_WIDTH_M)
    positions = np.stack([across, np.where(is_road, 1.5, 1.5 - height), along], -1)
    colours = np.stack([along / STREET_M * 255, 60 + 10 * height, 255 - along / STREET_M * 255], -1)
    colours = colours.clip(0, 255).astype(np.uint8)
    source = np.sort(random.integers(0, len(scene.frames) * IMAGE_HW[0] * IMAGE_HW[1], number))
    cloud = PointCloud(positions, colours, random.uniform(1, 9, number).astype(np.float32), source)
    poses = scene.world_from_cam.clone()
    poses[:, :, :3] = poses.new_tensor(np.eye(3))
    poses[:, :, 3] = 0
    poses[:, 2, 3] = poses.new_tensor(np.linspace(0, STREET_M - 50, len(poses)))
    info = scene.info.model_copy(update={"num_points": number, "voxel_size": 0.05, "loops": (), "breaks": ()})
    start_scene_folder(folder)
    cameras = SceneCameras(info, scene.frames, scene.timestamps, poses, scene.intrinsics)
    write_scene(partial_folder(folder), cameras, cloud)
    publish_scene_folder(folder)
    return folder


def measure_parts(scene: Path) -> None:
    """Print what the server does for a window, step by step."""
    start = time.perf_counter()
    shown = ViewedScene.load(scene)
    loaded = time.perf_counter()
    passing = shown.levels.passing(2.0, 0, (0, len(shown.world_from_cam)))
    filtered = time.perf_counter()
    shown.levels.near(
        passing[500_000:], 500_000, shown.world_from_cam[20, :, 3], shown.world_from_cam[20, :, 2]
    )
    near = time.perf_counter()
    print(f"read and sorted into {len(shown.levels.voxel_sizes)} levels in {loaded - start:.2f} s")
    print(f"filtered by confidence and chunk in {filtered - loaded:.3f} s")
    print(f"500,000 points in view chosen in {near - filtered:.3f} s")


def measure_window(scene: Path) -> None:
    """Print how long a window waits, what is sent to it, and the server's memory."""
    command = [sys.executable, "-m", "scal3r_train.cli", "view", str(scene), "--port", "0"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split(" at ")[1].split()[0]
            print(f"server ready {time.perf_counter() - start:.1f} s after its start (imports included)")
            with chromium_page() as page:
                counter = Counter(int(url.rsplit(":", 1)[1]))
                opened = time.perf_counter()
                page.open(f"http://127.0.0.1:{counter.port}", 1200, 800)
                page.wait_for(is_coloured, LIMIT_S)
                print(
                    f"points on the screen {time.perf_counter() - opened:.1f} s after opening the page (SwiftShader)"
                )
                time.sleep(10)  # the points in view come after those that are everywhere
                page.screenshot()
                print(f"{counter.num_bytes / 1e6:.1f} MB sent for the page and the first million points")
            memory = psutil.Process(server.pid).memory_info().rss
            print(f"the server's memory is {memory / MIB:.0f} MiB")
        finally:
            server.terminate()


class Counter:
    """Stands between a browser and a server on this machine.

    Attributes:
        port: that browsers connect to.
        num_bytes: that the server has sent.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.num_bytes = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            browser, _ = self._listener.accept()
            server = socket.create_connection(("127.0.0.1", self._server_port))
            for source, target, counts in ((browser, server, False), (server, browser, True)):
                threading.Thread(target=self._relay, args=(source, target, counts), daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket, counts: bool) -> None:  # noqa: FBT001
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.num_bytes += len(data) * counts
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def is_coloured(pixels: np.ndarray) -> bool:
    """Whether the left half of a screenshot shows strong colours."""
    half = pixels[:, : pixels.shape[1] // 2].astype(int)
    return bool((np.ptp(half, axis=-1) > 60).mean() > 0.003)


if __name__ == "__main__":
    main()
