"""`scal3r export`: writes a scene folder in the format of another program; here is the list of formats."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scal3r_train import __version__
from scal3r_train.config import UserError, validate_mapping
from scal3r_train.notes import answer, tell
from scal3r_train.parallel.claimed_output import claimed
from scal3r_train.scene.export import e57, gaussians, glb, las, nerfstudio, refine, trajectory
from scal3r_train.scene.export.options import ExportOptions
from scal3r_train.scene.export.output import new_output, refuse_output
from scal3r_train.scene.export.source import ExportSource

POINT_OPTIONS = {"min_confidence", "min_confidence_ratio", "voxel_size", "max_points"}
IMAGE_OPTIONS = {"images", "write_images"}


@dataclass(frozen=True)
class Format:
    """How a format is written.

    Attributes:
        write: writes a scene to a temporary path and says in words what it wrote.
        is_folder: whether that path is a folder, which is there already.
        options: that have an effect, besides `overwrite`.
        advice: what to do with the output, told when it is written; {output} is its path.
    """

    write: Callable[[ExportSource, Path], str]
    is_folder: bool
    options: frozenset[str]
    advice: str = ""


FORMATS = {
    "colmap": Format(
        refine.write_colmap,
        is_folder=True,
        options=frozenset({*POINT_OPTIONS, *IMAGE_OPTIONS, "text", "single_camera", "refine"}),
    ),
    "ply": Format(ExportSource.write_ply, is_folder=False, options=frozenset(POINT_OPTIONS)),
    "las": Format(las.write_las, is_folder=False, options=frozenset(POINT_OPTIONS)),
    "laz": Format(las.write_laz, is_folder=False, options=frozenset(POINT_OPTIONS)),
    "e57": Format(e57.write_e57, is_folder=False, options=frozenset(POINT_OPTIONS)),
    "glb": Format(glb.write, is_folder=False, options=frozenset(POINT_OPTIONS)),
    "nerfstudio": Format(
        nerfstudio.write, is_folder=True, options=frozenset({*POINT_OPTIONS, *IMAGE_OPTIONS})
    ),
    "gaussians": Format(
        gaussians.write,
        is_folder=True,
        options=frozenset({*POINT_OPTIONS, "images", "single_camera"}),
        advice=gaussians.TRAINING,
    ),
    "tum": Format(trajectory.write_tum, is_folder=False, options=frozenset()),
    "kitti": Format(trajectory.write_kitti, is_folder=False, options=frozenset()),
}


def main(scene: Path, output: Path, format_name: str, options: Mapping[str, Any]) -> int:
    """Export a scene folder and return 0; prints what was written, and on stderr what the user should know.

    Args:
        scene: the folder.
        output: file or folder to write, which appears whole or not at all.
        format_name: key of `FORMATS`.
        options: fields of `ExportOptions`.

    Raises:
        UserError: options, scene or output cannot be used, or the output cannot be written.
    """
    chosen = _options(format_name, options)
    form = FORMATS[format_name]
    with ExportSource.open(scene, chosen) as source:
        refuse_output(output, scene, is_folder=form.is_folder, overwrite=chosen.overwrite)
        record = {
            "format": format_name,
            "scene": str(scene.resolve()),
            "scene_created": source.cameras.info.created,
            "code_version": __version__,
            "options": chosen.model_dump(mode="json"),
        }
        with (
            claimed(output, "output", is_folder=form.is_folder),
            new_output(output, is_folder=form.is_folder, record=record) as temporary,
        ):
            contents = form.write(source, temporary)
        if breaks := source.cameras.info.breaks:
            frames = ", ".join(str(source.cameras.info.provided_frames[chunk][0]) for chunk in breaks)
            source.notes.append(
                f"the trajectory is torn before frame {frames}: parts are not placed relative to others"
            )
    answer(f"{output}: {contents}")
    if form.advice:
        answer(*form.advice.format(output=shlex.quote(str(output))).splitlines())
    tell(*source.notes)
    return 0


def _options(format_name: str, options: Mapping[str, Any]) -> ExportOptions:
    if format_name not in FORMATS:
        raise UserError(f"export knows no format '{format_name}'; choose one of {', '.join(FORMATS)}")
    chosen = validate_mapping(ExportOptions, options, "export")
    useless = sorted(chosen.model_fields_set - FORMATS[format_name].options - {"overwrite"})
    if useless:
        raise UserError(f"--{useless[0].replace('_', '-')} has no effect on {format_name}; leave it out")
    return chosen
