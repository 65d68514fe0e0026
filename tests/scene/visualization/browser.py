"""A headless Chromium, driven by its debugging protocol: opens pages, takes screenshots, listens to the console."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new --no-sandbox --disable-dev-shm-usage --no-first-run --hide-scrollbars --mute-audio "
    "--use-angle=swiftshader --enable-unsafe-swiftshader --remote-debugging-port=0"
).split()
START_S, ANSWER_S, STEP_S = 60.0, 120.0, 0.5


def find_chromium() -> str | None:
    """Return the path of a Chromium, None where there is none (`make chromium` installs one)."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page of the browser.

    Attributes:
        problems: errors of scripts, of the console and of the network, as they come.
        requests: addresses that were asked for, data: and blob: left out.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._number = 0
        self._is_loaded = False
        self.problems: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and return its result; events that come meanwhile are noted."""
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": arguments}))
        while True:
            message = self._receive()
            if message.get("id") == self._number:
                assert "error" not in message, message
                return dict(message["result"])

    def open(self, url: str, width: int, height: int, *, dark: bool = False) -> None:
        """Go to an address with a window of this size."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._is_loaded = False
        self.call("Page.navigate", url=url)
        while not self._is_loaded:
            self._receive()

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, a promise's too."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def screenshot(self, *, whole: bool = False) -> np.ndarray:
        """Return what is seen, or the whole page, as [H, W, 3] uint8."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))

    def wait_for(self, is_there: Callable[[np.ndarray], bool], limit_s: float = 120.0) -> np.ndarray:
        """Return the first screenshot that is as wanted, or after the limit the last one."""
        end = time.monotonic() + limit_s
        while True:
            pixels = self.screenshot()
            if is_there(pixels) or time.monotonic() > end:
                return pixels
            time.sleep(STEP_S)

    def _receive(self) -> dict[str, Any]:
        """Return the next message, and note what it says."""
        message: dict[str, Any] = json.loads(self._connection.recv(timeout=ANSWER_S))
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, what: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._is_loaded = True
        elif method == "Runtime.exceptionThrown":
            self.problems.append(str(what["exceptionDetails"].get("exception", what["exceptionDetails"])))
        elif method == "Runtime.consoleAPICalled" and what["type"] in ("error", "assert"):
            self.problems.append(
                str([argument.get("value", argument.get("description")) for argument in what["args"]])
            )
        elif method == "Log.entryAdded" and what["entry"]["level"] == "error":
            self.problems.append(f"{what['entry']['text']} {what['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            url = what["request"]["url"]
            if not url.startswith(("data:", "blob:")):
                self.requests.append(url)


@contextmanager
def chromium_page() -> Iterator[Page]:
    """Start Chromium and give its one page."""
    from websockets.sync.client import connect

    program = find_chromium()
    assert program is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = _port(Path(profile), process)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                pages = [page for page in json.load(answer) if page["type"] == "page"]
            with connect(
                pages[0]["webSocketDebuggerUrl"], max_size=None, max_queue=None, ping_interval=None
            ) as connection:
                page = Page(connection)
                yield page
                page.call("Browser.close")
        finally:
            process.terminate()
            process.wait(30)


def _port(profile: Path, process: subprocess.Popen[bytes]) -> int:
    """Return the port that the browser chose."""
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            return int((profile / "DevToolsActivePort").read_text().splitlines()[0])
        except (OSError, IndexError, ValueError):
            time.sleep(0.1)
    raise RuntimeError("Chromium did not start")
