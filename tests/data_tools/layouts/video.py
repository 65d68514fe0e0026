from pathlib import Path

import av

from tests.data_tools.miniature import Miniature


def write(folder: Path, scene: Miniature) -> None:
    """One video in a folder below, beside a file that is none."""
    (folder / "walks").mkdir()
    (folder / "walks" / "notes.txt").write_text("no video\n")
    with av.open(str(folder / "walks" / "walk.MP4"), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = *scene.hw, "yuv420p"
        for image in scene.images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
