"""data index, prepare, check, preview, summary, pack and synth."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from scal3r_train.cli.parser import add_command, add_overrides

if TYPE_CHECKING:
    from scal3r_train.cli.parser import Commands

ADAPTER_OPTIONS = "options of the data set (docs/data/DATASET.md); an unknown one lists them"
SETTINGS = "settings (docs/data); an unknown one lists them"


def add_data_commands(commands: "Commands") -> None:
    """Add the commands below `data`."""
    data = commands.add_parser("data", help="Index, check, look at or make data.")
    kinds = data.add_subparsers(title="data commands", metavar="COMMAND", required=True)
    index = add_command(
        kinds,
        "index",
        _data_index,
        "Index a data set where it lies; nothing is copied or converted.",
        "scal3r data index seven_scenes downloads/7scenes 7scenes.parquet",
    )
    index.add_argument("dataset", metavar="DATASET", help="name of the adapter; an unknown one lists them")
    index.add_argument("source", metavar="SRC", type=Path, help="folder of the data set")
    index.add_argument("output", metavar="OUT.parquet", type=Path, help="index to write")
    add_overrides(index, ADAPTER_OPTIONS)
    prepare = add_command(
        kinds,
        "prepare",
        _data_prepare,
        "Write what a data set does not hold as files, such as depth from its mesh; can be started again.",
        "scal3r data prepare scannet_pp downloads/scannetpp prepared/scannetpp num_workers=8",
    )
    prepare.add_argument("dataset", metavar="DATASET", help="name of the adapter; an unknown one lists them")
    prepare.add_argument("source", metavar="SRC", type=Path, help="folder of the data set")
    prepare.add_argument("output", metavar="OUT", type=Path, help="folder to write")
    add_overrides(prepare, ADAPTER_OPTIONS)
    check = add_command(
        kinds,
        "check",
        _data_check,
        "Check files, and whether pixels, depth, poses and intrinsics agree; name the likely mistake where they do "
        "not. Exit code 0 only if all is well. Settings: report=DIR, decode_every=N, num_pairs=N (docs/data/check.md).",
        "scal3r data check 7scenes.parquet report=7scenes_check",
    )
    check.add_argument("index", metavar="INDEX", type=Path, help="Parquet index")
    add_overrides(check, SETTINGS)
    preview = add_command(
        kinds,
        "preview",
        _data_preview,
        "Draw some sequences: frames, depth, depth over the image, cameras and a point cloud.",
        "scal3r data preview 7scenes.parquet 7scenes.png sequences=4 frames=6",
    )
    preview.add_argument("index", metavar="INDEX", type=Path, help="Parquet index")
    preview.add_argument("output", metavar="OUT.png", type=Path, help="image to write")
    add_overrides(preview, SETTINGS)
    summary = add_command(
        kinds,
        "summary",
        _data_summary,
        "Print what indexes or a recipe's mixture consist of: frames, hours, kilometres, licences, share per step. "
        "world_size and steps are arguments of this command, all other keys change the recipe.",
        "scal3r data summary recipes/paper/stage_1.yaml world_size=32",
    )
    summary.add_argument("first", metavar="RECIPE|INDEX", help="YAML file, or Parquet index (file or URL)")
    summary.add_argument("others", nargs="*", metavar="INDEX|key=value", help="more indexes, then changes")
    pack = add_command(
        kinds,
        "pack",
        _data_pack,
        "Pack an index with its files into Parquet, to publish or to train from an object store.",
        "scal3r data pack 7scenes.parquet packed/7scenes",
    )
    pack.add_argument("index", metavar="INDEX", type=Path, help="Parquet index")
    pack.add_argument("output", metavar="OUT", type=Path, help="folder to write")
    add_overrides(pack, SETTINGS)
    synth = add_command(
        kinds,
        "synth",
        _data_synth,
        "Make procedural towns with exact poses, depth and intrinsics, and their index.",
        "scal3r data synth runs/towns num_sequences=16",
    )
    synth.add_argument("output", metavar="OUT", type=Path, help="folder to write")
    add_overrides(synth, SETTINGS)


def _data_index(arguments: argparse.Namespace) -> int | None:
    from scal3r_data_tools import index

    return index.main(arguments.dataset, arguments.source, arguments.output, arguments.overrides)


def _data_prepare(arguments: argparse.Namespace) -> int | None:
    from scal3r_data_tools import prepare

    return prepare.main(arguments.dataset, arguments.source, arguments.output, arguments.overrides)


def _data_check(arguments: argparse.Namespace) -> int | None:
    from scal3r_data_tools import check

    return check.main(arguments.index, arguments.overrides)


def _data_preview(arguments: argparse.Namespace) -> int | None:
    from scal3r_data_tools import preview

    return preview.main(arguments.index, arguments.output, arguments.overrides)


def _data_summary(arguments: argparse.Namespace) -> int | None:
    from scal3r_data_tools import summary

    return summary.main([arguments.first, *arguments.others])


def _data_pack(arguments: argparse.Namespace) -> int | None:
    from scal3r_data_tools import pack

    return pack.main(arguments.index, arguments.output, arguments.overrides)


def _data_synth(arguments: argparse.Namespace) -> int | None:
    from scal3r_data_tools import synth

    return synth.main(arguments.output, arguments.overrides)
