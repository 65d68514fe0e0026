"""The command line: what each command hands to whom, how it helps, and how it refuses."""

import argparse
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scal3r_train import cli
from tests.conftest import PROJECT_ROOT

# argv, the function it ends in, and that function's arguments.
CALLS: list[tuple[str, str, tuple[Any, ...]]] = [
    ("train r.yaml a=1 b.0.c=2", "scal3r_train.train.main", (["r.yaml", "a=1", "b.0.c=2"],)),
    ("plan r.yaml", "scal3r_train.planning.report.main", (Path("r.yaml"), [], None, None, None)),
    (
        "plan r.yaml world_size=4 a=1 steps=7",
        "scal3r_train.planning.report.main",
        (Path("r.yaml"), ["a=1"], 4, 7, None),
    ),
    ("eval r.yaml", "scal3r_eval.pipeline.main", (Path("r.yaml"), [])),
    ("eval r.yaml a=1 b.c=2", "scal3r_eval.pipeline.main", (Path("r.yaml"), ["a=1", "b.c=2"])),
    ("reconstruct in out", "scal3r_train.inference.reconstruct.main", ("in", Path("out"), None, [])),
    (
        "reconstruct i.parquet#s out a=1",
        "scal3r_train.inference.reconstruct.main",
        ("i.parquet#s", Path("out"), None, ["a=1"]),
    ),
    (
        "reconstruct in out r=1.yaml a=1",
        "scal3r_train.inference.reconstruct.main",
        ("in", Path("out"), Path("r=1.yaml"), ["a=1"]),
    ),
    (
        "reconstruct in out --follow a=1",
        "scal3r_train.inference.streaming.reconstruct_stream.main",
        ("in", Path("out"), None, ["a=1"]),
    ),
    (
        "reconstruct - out --follow",
        "scal3r_train.inference.streaming.reconstruct_stream.main",
        ("-", Path("out"), None, []),
    ),
    ("report s", "scal3r_train.scene.visualization.report.main", (Path("s"), None)),
    ("report s --truth t.txt", "scal3r_train.scene.visualization.report.main", (Path("s"), "t.txt")),
    ("view s", "scal3r_train.scene.visualization.viewer.main", (Path("s"), None, "127.0.0.1", None, None)),
    (
        "view s --port 9 --host ::1 --truth i.parquet#a --max-points 5",
        "scal3r_train.scene.visualization.viewer.main",
        (Path("s"), 9, "::1", "i.parquet#a", 5),
    ),
    (
        "render s o.mp4",
        "scal3r_train.scene.visualization.video.render_video.main",
        (Path("s"), Path("o.mp4"), {}),
    ),
    (
        "render s o.gif --path orbit --seconds 4 --size 320x240 --inset --hide-doubtful 10",
        "scal3r_train.scene.visualization.video.render_video.main",
        (
            Path("s"),
            Path("o.gif"),
            {"path": "orbit", "seconds": 4.0, "size": "320x240", "inset": True, "hide_doubtful": 10.0},
        ),
    ),
    (
        "export s --to ply o.ply",
        "scal3r_train.scene.export.export_scene.main",
        (Path("s"), Path("o.ply"), "ply", {}),
    ),
    (
        "export --to colmap s o --max-points 9 --voxel-size 0.5 --text --images d",
        "scal3r_train.scene.export.export_scene.main",
        (
            Path("s"),
            Path("o"),
            "colmap",
            {"max_points": 9, "voxel_size": 0.5, "text": True, "images": "d"},
        ),
    ),
    (
        "score trajectory a.tum b.txt",
        "scal3r_eval.score_trajectory.main",
        (Path("a.tum"), "b.txt", "sim3", 0.01, (1.0, "frames"), "check"),
    ),
    (
        "score trajectory a b --align none --max-time-difference 0.02 --rpe-delta 5 --rpe-unit m --frames-match force",
        "scal3r_eval.score_trajectory.main",
        (Path("a"), "b", "none", 0.02, (5.0, "m"), "force"),
    ),
    (
        "score points a.ply b.ply --threshold 0.5",
        "scal3r_eval.score_points.main",
        ("a.ply", "b.ply", {"threshold": 0.5}),
    ),
    (
        "score points --align scale s i.parquet#a --threshold 1 --voxel 0 --icp sim3 --est-trajectory t",
        "scal3r_eval.score_points.main",
        (
            "s",
            "i.parquet#a",
            {"threshold": 1.0, "voxel": 0.0, "est_trajectory": "t", "align": "scale", "icp": "sim3"},
        ),
    ),
    (
        "data index seven_scenes src o.parquet",
        "scal3r_data_tools.index.main",
        ("seven_scenes", Path("src"), Path("o.parquet"), []),
    ),
    (
        "data prepare scannet_pp src out num_workers=2",
        "scal3r_data_tools.prepare.main",
        ("scannet_pp", Path("src"), Path("out"), ["num_workers=2"]),
    ),
    ("data check i.parquet", "scal3r_data_tools.check.main", (Path("i.parquet"), [])),
    (
        "data check i.parquet report=r",
        "scal3r_data_tools.check.main",
        (Path("i.parquet"), ["report=r"]),
    ),
    (
        "data preview i.parquet o.png",
        "scal3r_data_tools.preview.main",
        (Path("i.parquet"), Path("o.png"), []),
    ),
    (
        "data preview i.parquet o.png frames=3",
        "scal3r_data_tools.preview.main",
        (Path("i.parquet"), Path("o.png"), ["frames=3"]),
    ),
    (
        "data summary a.parquet b.parquet",
        "scal3r_data_tools.summary.main",
        (["a.parquet", "b.parquet"],),
    ),
    ("data summary r.yaml a=1", "scal3r_data_tools.summary.main", (["r.yaml", "a=1"],)),
    ("data pack i.parquet out a=1", "scal3r_data_tools.pack.main", (Path("i.parquet"), Path("out"), ["a=1"])),
    ("data synth out a=1", "scal3r_data_tools.synth.main", (Path("out"), ["a=1"])),
    (
        "push run me/x --dry-run",
        "scal3r_train.training.checkpointing.push.main",
        (Path("run"), "me/x", {"private": False, "is_dry_run": True}),
    ),
    ("convert a.pt out", "scal3r_train.model.convert_checkpoint.main", (Path("a.pt"), Path("out"))),
]
CALL_NAMES = [command for command, _, _ in CALLS]


@pytest.mark.parametrize(("command", "function", "expected"), CALLS, ids=CALL_NAMES)
def test_command_hands_its_arguments_on(
    monkeypatch: pytest.MonkeyPatch, command: str, function: str, expected: tuple[Any, ...]
) -> None:
    received: list[tuple[Any, ...]] = []

    def record(*arguments: Any) -> int:
        received.append(arguments)
        return 3

    module_name = function.rpartition(".")[0]
    package_name, _, stem = module_name.rpartition(".")
    stand_in = SimpleNamespace(main=record)
    monkeypatch.setitem(sys.modules, module_name, stand_in)
    monkeypatch.setattr(importlib.import_module(package_name), stem, stand_in, raising=False)
    assert cli.main(command.split()) == 3
    assert received == [expected]


@pytest.mark.parametrize(("function", "arguments"), [call[1:] for call in CALLS], ids=CALL_NAMES)
def test_function_takes_these_arguments(function: str, arguments: tuple[Any, ...]) -> None:
    module_name, _, name = function.rpartition(".")
    inspect.signature(vars(importlib.import_module(module_name))[name]).bind(*arguments)


def all_parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield the parsers of all commands that do something."""
    choices = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not choices:
        yield parser
    for name in [name for names in choices for name in names]:
        yield from all_parsers(choices[0][name])


COMMANDS = list(all_parsers(cli.build_parser()))


def test_commands_of_the_contract_exist() -> None:
    assert {parser.prog.removeprefix("scal3r ") for parser in COMMANDS} == {
        "train",
        "plan",
        "eval",
        "config",
        "recipes",
        "reconstruct",
        "convert",
        "push",
        "export",
        "report",
        "render",
        "view",
        "score trajectory",
        "score points",
        "data index",
        "data prepare",
        "data check",
        "data preview",
        "data summary",
        "data pack",
        "data synth",
    }


@pytest.mark.parametrize("parser", COMMANDS, ids=lambda parser: parser.prog)
def test_help_ends_in_an_example_that_parses(parser: argparse.ArgumentParser) -> None:
    example = parser.format_help().rstrip().splitlines()[-1].split()
    assert " ".join(example).startswith(parser.prog)
    assert cli.build_parser().parse_args(example[1:]).handler is parser.get_default("handler")


@pytest.mark.parametrize("parser", COMMANDS, ids=lambda parser: parser.prog)
def test_recipe_of_an_example_exists(parser: argparse.ArgumentParser) -> None:
    recipes = [word for word in (parser.epilog or "").split() if word.startswith("recipes/")]
    assert all((PROJECT_ROOT / recipe).is_file() for recipe in recipes)


@pytest.mark.parametrize(
    "command", ["", "frobnicate", "train", "data", "score points a b", "score trajectory a b --align maybe"]
)
def test_wrong_usage_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(command.split())
    captured = capsys.readouterr()
    assert left.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith("scal3r: error: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("world_size", ["0", "-1", "two", "", "1.5"])
def test_plan_refuses_counts_that_are_none(capsys: pytest.CaptureFixture[str], world_size: str) -> None:
    assert cli.main(["plan", "r.yaml", f"world_size={world_size}"]) == 2
    assert "no positive whole number" in capsys.readouterr().err


def test_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "scal3r_train.cli", "score"]
    finished = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert finished.returncode == 2
    assert finished.stderr.startswith("scal3r: error: ")


def test_config_prints_a_resolved_recipe_that_loads_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["config", str(PROJECT_ROOT / "recipes" / "demo.yaml"), "seed=41"]) == 0
    first = capsys.readouterr().out
    assert "seed: 41\n" in first
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(first)
    assert cli.main(["config", str(resolved)]) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("text", "expected"),
    [("modle: {}\n", "unknown key 'modle'"), ("seed: 1\nseed: 2\n", "bad.yaml:2: found duplicate key")],
)
@pytest.mark.parametrize("command", ["train", "plan", "config"])
def test_bad_recipe_is_one_line_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, text: str, expected: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert cli.main([command, str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("scal3r: error: ")
    assert captured.err.count("\n") == 1
    assert expected in captured.err
    assert list(tmp_path.iterdir()) == [path]
