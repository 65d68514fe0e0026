"""The kinds of input that are fuzzed: what right ones look like, and the command or function that reads them.

Functions stand in for commands where a command would do much more than read; they are called as `scal3r` calls them
(`config.run_command`), so that exit codes and lines are those of the commands.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import torch
from hypothesis import strategies as st

from benchmarks.fuzzing import originals
from benchmarks.fuzzing.edits import content_of, settings_words
from scal3r_data_tools import index as index_command
from scal3r_data_tools.preparing.circuits import ac3d, plan, safe_xml, sgi, spm
from scal3r_data_tools.registry import ADAPTERS, known_adapter
from scal3r_eval import score_points, score_trajectory
from scal3r_eval.recipe import load_any_recipe
from scal3r_train.config import UserError, dump_yaml, load_config
from scal3r_train.data.index.index import load_index, summarize
from scal3r_train.data.index.source import record_from_video
from scal3r_train.data.io.depth_codec import read_depth
from scal3r_train.data.io.frame_io import read_frame_depth, read_frame_image, read_frame_mask
from scal3r_train.data.io.image_codec import decode_mask, read_image, read_image_header
from scal3r_train.data.known_cameras import with_cameras
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.inference.input.image_times import with_times
from scal3r_train.inference.streaming.image_pipe import Spool
from scal3r_train.model.convert_checkpoint import read_tensors
from scal3r_train.model.hub_files import num_parameters
from scal3r_train.model.load_model import load_model
from scal3r_train.planning import report as plan_command
from scal3r_train.scene.export import export_scene
from scal3r_train.scene.scene import read_depth as read_scene_depth
from scal3r_train.scene.visualization import report as report_command
from tests.data_tools import layouts

PICTURES = (".png", ".jpg", ".jpeg")
SETTINGS_FILE, KEYS = "overrides.txt", "keys"


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        name: in the table.
        group: "recipes" or "files".
        weight: its share of the inputs of its group.
        write: writes right inputs into a folder.
        read: from the folder and the edited file in it, what a command does; returns its exit code.
        is_edited: whether a file of the folder is one that is edited.
        roots: the folders that are inputs, each by itself; None: the folder is one.
        content: draws the content of an edited file; by default by its name.
        names_file: whether every refusal must hold the name of the edited file or of a folder above it.
        roles: other words that say which file is meant.
        tries_right: whether what `write` writes is an input by itself, which must be accepted.
        codes: exit codes of success.
    """

    name: str
    group: str
    weight: float
    write: Callable[[Path], None]
    read: Callable[[Path, Path], int | None]
    is_edited: Callable[[Path], bool] = lambda path: True
    roots: Callable[[Path], Sequence[Path]] | None = None
    content: Callable[[str, bytes], st.SearchStrategy[bytes]] = content_of
    names_file: bool = True
    roles: tuple[str, ...] = ()
    tries_right: bool = True
    codes: tuple[int, ...] = (0,)


def _config(root: Path, path: Path) -> None:
    dump_yaml(load_any_recipe(path))


def _overrides(root: Path, path: Path) -> None:
    recipe = root / path.parent.relative_to(root / KEYS)
    dump_yaml(load_any_recipe(recipe, path.read_text("utf-8").split("\n")))


def _plan(root: Path, path: Path) -> int | None:
    return plan_command.main(path, [], 2, 2, None)


def _options(root: Path, path: Path) -> None:
    load_config(known_adapter(path.parent.name).options, None, path.read_text("utf-8").split("\n"))


def _image(root: Path, path: Path) -> None:
    read_image_header(path)
    read_image(path)


def _mask(root: Path, path: Path) -> None:
    decode_mask(path.read_bytes(), "below 1", path)


def _depth(root: Path, path: Path) -> None:
    read_depth(path, path.parent.name, (24, 32))


def _video(root: Path, path: Path) -> None:
    record = record_from_video(path)
    for frame in {0, record.num_frames // 2, record.num_frames - 1}:
        read_frame_image(record, frame)


def _index(root: Path, path: Path) -> None:
    index = load_index(path)
    summarize([index])
    index.durations_s()
    index.aspects()
    for row in range(len(index)):
        _first_frame(index[row])


def _first_frame(record: SequenceRecord) -> None:
    read_frame_image(record, 0)
    read_frame_depth(record, 0)
    read_frame_mask(record, 0)


def _layout(root: Path, path: Path) -> None:
    layout = importlib.import_module(f"{layouts.__name__}.{root.name}")
    index_command.main(root.name, root, root.parent / "out.parquet", vars(layout).get("OPTIONS", ()))
    _first_frame(load_index(root.parent / "out.parquet")[0])


def _trajectory(root: Path, path: Path) -> int | None:
    right = root / f"right{path.suffix}"
    return score_trajectory.main(path, str(right), "sim3", 0.01, (1.0, "frames"), "check")


def _points(root: Path, path: Path) -> int | None:
    return score_points.main(str(path), str(root / "right.ply"), {"threshold": 0.1})


def _scene(root: Path, path: Path) -> None:
    report_command.main(root, None)
    for frame in range(len(list((root / "depth").iterdir()))):
        read_scene_depth(root, frame)
    export_scene.main(root, root.parent / "out", "nerfstudio", {})


def _checkpoint(root: Path, path: Path) -> None:
    load_model(root, torch.device("cpu"))
    num_parameters(root)


def _torch_file(root: Path, path: Path) -> None:
    read_tensors(path)


def _pipe(root: Path, path: Path) -> None:
    spool = Spool(FileIO(path), root.parent / "spool")
    spool.run()
    for written in sorted(spool.folder.iterdir()):
        read_image(written)
    if spool.error is not None:
        raise UserError(f"{path.name}: {spool.error}")


def _times(root: Path, path: Path) -> None:
    with_times(originals.four_images(root), path)


def _cameras(root: Path, path: Path) -> None:
    with_cameras(originals.four_images(root), str(root / "cameras.txt"))


def _circuit(root: Path, path: Path) -> None:
    match path.suffix:
        case ".xml":
            safe_xml.parse_xml(path)
            plan.course(plan.read_description(path))
        case ".acc":
            ac3d.read_ac3d(path)
        case ".spm":
            spm.read_spm(path)
        case ".rgb":
            sgi.decode_sgi(path.read_bytes(), path)


def _write_layouts(folder: Path) -> None:
    scene = originals.small_scene()
    for found in sorted(pkgutil.iter_modules(layouts.__path__), key=lambda module: module.name):
        layout = importlib.import_module(f"{layouts.__name__}.{found.name}")
        target = folder / found.name
        target.mkdir()
        layout.write(target, layout.scene() if "scene" in vars(layout) else scene)


def _is_table(path: Path) -> bool:
    """Whether a file of a layout says more than one picture does: pictures have a kind of their own."""
    if path.suffix.lower() not in (*PICTURES, ".exr", ".h5", ".hdf5", ".npy", ".npz", ".pfm"):
        return True
    return path == min(other for other in path.parent.iterdir() if other.suffix == path.suffix)


def _adapters_with_options(folder: Path) -> None:
    for name, adapter in ADAPTERS.items():
        if adapter.options.model_fields:
            (folder / name).mkdir()
            keys = [*adapter.options.model_fields, "num_covisible"]
            (folder / name / SETTINGS_FILE).write_text("\n".join(keys))


def _recipes_with_keys(folder: Path) -> None:
    originals.write_recipes(folder)
    for number, path in enumerate(sorted(folder.rglob("*.yaml"))):
        keys = originals.keys_of(path)
        if keys and number % 3 == 0:
            below = folder / KEYS / path.relative_to(folder)
            below.mkdir(parents=True)
            (below / SETTINGS_FILE).write_text("\n".join(keys))


def _words(name: str, data: bytes) -> st.SearchStrategy[bytes]:
    return settings_words(data.decode().split("\n"))


def _is_settings(path: Path) -> bool:
    return path.name == SETTINGS_FILE


def _is_index(path: Path) -> bool:
    return path.suffix == ".parquet"


def _is_estimate(path: Path) -> bool:
    return path.stem != "right"


def _is_no_picture(path: Path) -> bool:
    return path.suffix not in PICTURES


def _is_of_weights(path: Path) -> bool:
    return path.name.endswith((".safetensors", "config.json", ".index.json"))


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


KINDS = (
    Kind("recipe", "recipes", 5, originals.write_recipes, _config),
    Kind(
        "override", "recipes", 3, _recipes_with_keys, _overrides, _is_settings, content=_words, names_file=False,
        tries_right=False,
    ),
    Kind(
        "adapter options", "recipes", 2, _adapters_with_options, _options, content=_words, names_file=False,
        tries_right=False,
    ),
    Kind("plan", "recipes", 0.5, originals.write_small_recipe, _plan, names_file=False),
    Kind("image", "files", 2, originals.write_images, _image),
    Kind("mask", "files", 0.5, originals.write_masks, _mask),
    Kind("depth", "files", 3, originals.write_depths, _depth),
    Kind("video", "files", 1, originals.write_videos, _video),
    Kind("index", "files", 1.5, originals.write_indexes, _index, _is_index, names_file=False),
    Kind("data set", "files", 6, _write_layouts, _layout, _is_table, _subfolders),
    Kind("trajectory", "files", 1, originals.write_trajectories, _trajectory, _is_estimate, roles=("the estimate",)),
    Kind("points", "files", 1, originals.write_points, _points, _is_estimate, roles=("the estimate", "a point")),
    Kind("scene", "files", 1, originals.write_scene, _scene, _is_no_picture, _subfolders),
    Kind("checkpoint", "files", 0.7, originals.write_checkpoint, _checkpoint, _is_of_weights, _subfolders),
    Kind("torch file", "files", 0.5, originals.write_torch_files, _torch_file),
    Kind("pipe", "files", 0.7, originals.write_pipes, _pipe),
    Kind("times", "files", 0.4, originals.write_times, _times),
    Kind("cameras", "files", 0.4, originals.write_cameras, _cameras),
    Kind("circuit", "files", 1, originals.write_circuit, _circuit),
)  # fmt: skip
