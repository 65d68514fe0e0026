"""`scal3r plan`: what it prints, and that it plans a large world without any data."""

from pathlib import Path

import pytest

from scal3r_train import cli
from scal3r_train.config import UserError
from scal3r_train.data.sampling.curriculum import Resolution
from scal3r_train.data.sampling.plan import StepShape, plan_step
from scal3r_train.planning import bytes_report, report
from scal3r_train.planning.stages import run_stages
from scal3r_train.planning.step_size import StepSize
from scal3r_train.recipe import load_training_recipe
from tests.training import tiny


def plan(path: Path, capsys: pytest.CaptureFixture[str], *overrides: str, world_size: int, steps: int) -> str:
    assert report.main(str(path), overrides, world_size, steps) == 0
    return capsys.readouterr().out


def test_the_demo_on_32_ranks(
    project_root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project_root)
    monkeypatch.setattr(
        "scal3r_train.planning.choices.MOST_FRAMES", 16
    )  # a shape run of a tiny network's 256 is long
    index = "data.sources=[{index: absent.parquet}]"
    out = plan(project_root / "recipes/demo.yaml", capsys, index, world_size=32, steps=100)
    assert "100 steps on 32 ranks" in out
    assert "index does not exist yet" in out
    assert "effective lengths" in out and "####" in out
    assert "every rank does the same in a step" in out
    assert "predicted, not measured" in out
    for word in (
        "ddp *",
        "fsdp2",
        "none *",
        "segments",
        "memory sync: 2 all-reduces",
        "80 GB: as it is",
        "6 communicators",
    ):
        assert word in out


@pytest.fixture
def _without_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes most of the time."""
    monkeypatch.setattr("scal3r_train.planning.bytes_report.print_bytes", lambda *_: None)


@pytest.mark.usefixtures("_without_bytes")
def test_numbers_of_a_known_plan(towns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One chunk of 4 frames of 2 x 3 patches and 5 special tokens on each rank; groups of two ranks."""
    changes = {"curriculum.group_size": {"2": 1.0}, "curriculum.chunks_per_rank": {"1": 1.0}}
    path = tmp_path / "recipe.json"
    path.write_text(tiny.recipe(towns, tmp_path / "run", changes).model_dump_json())
    out = plan(path, capsys, world_size=4, steps=10)
    assert f"{4 * (6 + 5)}-{4 * (6 + 5)} tokens" in out
    assert "100.0 %" in out  # all ranks are in groups of two
    row = next(line for line in out.splitlines() if "####" in line)
    assert [cell.strip() for cell in row.split("\u2502")][1:4] == ["2", "7", "10"]
    assert "padding 0.00 %" in out
    assert "does not exist" not in out


@pytest.mark.usefixtures("_without_bytes")
def test_padding_of_short_sequences_is_told(
    towns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uneven = tiny.write_uneven_towns(towns, tmp_path / "index.parquet")
    path = tmp_path / "recipe.json"
    path.write_text(tiny.recipe(uneven, tmp_path / "run").model_dump_json())
    out = plan(path, capsys, world_size=1, steps=50)
    share = float(out.split("padding ")[1].split(" %")[0])
    assert share == pytest.approx(100 * (1 - (1 + 2 + 3 + 2) / 16), abs=12)


def test_work_of_a_rank_counts_all_tokens() -> None:
    recipe = tiny.recipe(Path("x"), Path("y"), {"curriculum.sequences_per_group": 3})
    sources, is_known = report.plannable_sources(recipe.data)
    assert not is_known
    step = plan_step(recipe.curriculum, sources, 0, 0, 4)
    assert step.shape == StepShape(4, 1, 4, Resolution(height=28, width=42))
    assert report.rank_work(step, 14, 5) == 3 * 4 * 4 * (6 + 5)
    (stage,) = run_stages(recipe)
    assert stage.largest == StepSize(3, 4, 4, 28, 42)
    assert stage.largest.frames_per_rank * (6 + 5) == report.rank_work(step, 14, 5)


def test_every_stage_is_planned_by_the_largest_step_it_can_draw() -> None:
    changes = {
        "curriculum.chunk_size": {"4": 1.0, "6": 1e-9},
        "curriculum.resolution": [{"height": 28, "width": 28}, {"height": 56, "width": 56, "weight": 0.0}],
        "curriculum.stages": [
            {"until": 3},
            {
                "until": 5,
                "chunks_per_rank": {"1": 1.0, "2": 1.0},
                "resolution": [{"height": 56, "width": 42}],
            },
            {"until": 900},
            {"chunk_size": {"64": 1.0}},
        ],
        "optim.num_steps": 7,
    }
    recipe = tiny.recipe(Path("x"), Path("y"), changes)
    stages = run_stages(recipe)
    assert [stage.steps for stage in stages] == [range(3), range(3, 5), range(5, 7)]
    chunks = max(recipe.curriculum.chunks_per_rank)
    assert stages[0].largest == StepSize(1, chunks, 6, 28, 28), (
        "an unlikely size counts, one without weight does not"
    )
    assert stages[1].largest == StepSize(1, 2, 6, 56, 42)
    sources, _ = report.plannable_sources(recipe.data)
    plans = report.stage_plans(recipe, sources, stages[1].steps, 2, 30, 3)
    assert [each.step for each in plans] == [3, 4], "the stage has no more"


def test_plans_of_a_large_world_are_bounded(project_root: Path) -> None:
    """Else a plan of 1,024 ranks takes 32 times one of 32."""
    recipe = load_training_recipe(str(project_root / "recipes/paper/stage_1.yaml"), [])
    sources, _ = report.plannable_sources(recipe.data)
    drawn = {
        world_size: report.stage_plans(recipe, sources, range(60_000), world_size, None, 1)
        for world_size in (1, 1024)
    }
    windows = {world_size: sum(plan.num_sequences for plan in plans) for world_size, plans in drawn.items()}
    assert windows == {1: report.MOST_STEPS, 1024: windows[1024]}
    assert report.MOST_WINDOWS <= windows[1024] < report.MOST_WINDOWS + 1024
    assert len(report.stage_plans(recipe, sources, range(60_000), 8, 20, 2)) == 10


def test_the_world_is_the_launchers_unless_it_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)
    assert cli.main(["plan", "recipes/debug/cpu.yaml"]) == 2
    assert "how many ranks?" in capsys.readouterr().err
    planned = []
    monkeypatch.setattr(report, "main", lambda *arguments: planned.append(arguments) or 0)
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert cli.main(["plan", "recipe.yaml", "seed=3"]) == 0
    assert cli.main(["plan", "recipe.yaml", "world_size=2", "steps=9"]) == 0
    assert planned == [(Path("recipe.yaml"), ["seed=3"], 16, None, 4)], "one process prints"
    monkeypatch.setenv("RANK", "0")
    assert cli.main(["plan", "recipe.yaml", "world_size=2", "steps=9", "ranks_per_node=1"]) == 0
    assert planned[-1] == (Path("recipe.yaml"), [], 2, 9, 1)


def test_the_engine_is_the_launchers_unless_the_recipe_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    recipe = tiny.recipe(Path("x"), Path("y"))
    named = tiny.recipe(Path("x"), Path("y"), {"parallel.engine": "zero2"})
    assert [bytes_report.planned_engine(recipe, world_size) for world_size in (1, 2)] == ["single", "ddp"]
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert bytes_report.planned_engine(recipe, 2) == "fsdp2"
    assert bytes_report.planned_engine(named, 2) == "zero2"


def test_a_world_without_ranks_is_refused(project_root: Path) -> None:
    with pytest.raises(UserError, match="both must be at least 1"):
        report.main(str(project_root / "recipes/demo.yaml"), [], 0, 10)
