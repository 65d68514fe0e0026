"""The evaluation recipes we ship: their commands, data sets and protocols are what they say."""

import contextlib
import hashlib
import io
import re
import shlex
from pathlib import Path

import pytest

from scal3r_data_tools.registry import NoOptions, known_adapter
from scal3r_eval.methods import runs_of
from scal3r_eval.predict_sequence import reconstruction_recipe
from scal3r_eval.recipe import EvalRecipe, Scal3RMethod, SequenceSettings, load_eval_recipe
from scal3r_eval.report.cited import BENCHMARKS
from scal3r_eval.sequences import choose_frames
from scal3r_train.cli import build_parser, main
from scal3r_train.config import UserError, load_config
from scal3r_train.data.index.index import load_index
from tests.conftest import PROJECT_ROOT
from tests.house.recipe_header import header_of

RECIPES = sorted((PROJECT_ROOT / "recipes" / "eval").glob("*.yaml"))
NAMES = [path.stem for path in RECIPES]
THRESHOLDS = {"eth3d": 0.25, "vkitti2": 1.0, "oxford_spires": 4.0}
MORE_METHODS = {
    "circuits": ["no_loops", "unknown_camera"],
    "circuits_ablation": ["trained_no_gcs", "trained_no_gcm"],
}
PUBLISHED = ("eth3d", "kitti", "oxford_spires", "scannet_pp", "tum", "vkitti2", "waymo")


@pytest.fixture(params=RECIPES, ids=NAMES)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(PROJECT_ROOT)
    return Path(request.param)


def test_all_benchmarks_are_there() -> None:
    assert set(NAMES) == {
        *PUBLISHED,
        "synthetic",
        "game_loop",
        "seven_scenes",
        "vbr",
        "spatialbench",
        "circuits",
        "circuits_ablation",
    }


def test_its_header_states_command_hardware_hours_and_numbers(path: Path) -> None:
    lines = header_of(path)
    text = "\n".join(lines)
    for wanted in ("Hardware: ", "Hours: ", "Expected numbers: "):
        assert wanted in text
    commands = [line.strip().split("    ")[0] for line in lines if line.startswith("   scal3r ")]
    assert commands[0].startswith(f"scal3r eval recipes/eval/{path.name}")
    for command in commands:
        with contextlib.redirect_stderr(io.StringIO()):
            build_parser().parse_args(shlex.split(command)[1:])


def test_its_data_has_an_adapter_and_the_command_that_gets_it(path: Path) -> None:
    benchmark = load_eval_recipe(path).benchmark
    words = shlex.split(benchmark.command())
    arguments = build_parser().parse_args(words[1:])
    if benchmark.towns:
        return
    assert benchmark.adapter is not None
    load_config(known_adapter(benchmark.adapter).options, None, arguments.overrides)
    assert (PROJECT_ROOT / "docs" / "data" / f"{benchmark.adapter}.md").is_file()


def test_its_methods_reconstruct_by_the_protocol(path: Path) -> None:
    recipe = load_eval_recipe(path)
    ours = [run for run in runs_of(recipe) if isinstance(run.settings, Scal3RMethod)]
    assert [run.method for run in ours[:3]] == ["scal3r", "no_gcs", "no_gcm"]
    found = [reconstruction_recipe(run, recipe) for run in ours]
    assert [one.model.memory for one in found[:3]] == [None, "chunk", "off"]
    assert [run.method for run in ours[3:]] == MORE_METHODS.get(path.stem, [])
    for one in found:
        assert one.schedule.chunk_size == recipe.protocol.chunk_size
        assert one.schedule.overlap == recipe.protocol.overlap
        assert one.input.stride == recipe.sequences.stride


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_protocols_are_the_papers(name: str) -> None:
    recipe = load_eval_recipe(PROJECT_ROOT / "recipes" / "eval" / f"{name}.yaml")
    protocol = recipe.protocol
    size = (120, 60) if name in ("scannet_pp", "tum") else (60, 30)
    assert (protocol.chunk_size, protocol.overlap, protocol.align) == (*size, "sim3")
    assert recipe.benchmark.cited == name and name in BENCHMARKS
    assert (protocol.points.threshold if protocol.points else None) == THRESHOLDS.get(name)


def test_frame_lists_have_hashes_of_the_sequences_named() -> None:
    """11 and 50 sequences, the paper's numbers."""
    kitti = load_eval_recipe(PROJECT_ROOT / "recipes/eval/kitti.yaml").sequences
    assert list(kitti.sha256) == list(kitti.names or ()) == [f"{number:02d}" for number in range(11)]
    vkitti = load_eval_recipe(PROJECT_ROOT / "recipes/eval/vkitti2.yaml").sequences
    assert list(vkitti.sha256) == list(vkitti.names or ())
    assert len(vkitti.sha256) == 50
    assert len(set(vkitti.sha256.values())) == 5, "one list a scene"
    assert all(re.fullmatch("[0-9a-f]{64}", one) for one in (*kitti.sha256.values(), *vkitti.sha256.values()))


def test_kitti_04_is_its_271_images_by_the_adapters_names(shared_dir: Path) -> None:
    """The sample holds the first 24 of them."""
    (record,) = known_adapter("kitti_odometry").records(shared_dir / "data" / "kitti_odometry", NoOptions())
    names = [f"image_2/{number:06d}.png" for number in range(271)]
    assert list(record.image) == names[:24] and record.sequence_id == "04"
    listed = "".join(f"{name}\n" for name in names)
    recipe = load_eval_recipe(PROJECT_ROOT / "recipes/eval/kitti.yaml")
    assert recipe.sequences.sha256["04"] == hashlib.sha256(listed.encode()).hexdigest()
    assert choose_frames(record, SequenceSettings()).frames_sha256 != recipe.sequences.sha256["04"]


def test_towns_are_pinned_by_the_names_that_they_get(towns: Path) -> None:
    """The fixture's towns are others and shorter, but name their frames alike."""
    names = [f"rgb/{number:06d}.png" for number in range(96)]
    image = list(load_index(towns)[0].image)
    assert image == names[: len(image)]
    recipe = load_eval_recipe(PROJECT_ROOT / "recipes/eval/synthetic.yaml")
    assert {"num_sequences=8", "num_frames=96", "seed=13"} <= set(recipe.benchmark.options)
    listed = hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
    assert recipe.sequences.sha256 == {f"town_013_{number:05d}": listed for number in range(8)}


@pytest.mark.parametrize(
    ("name", "folder"), [("game_loop", "game_loop"), ("seven_scenes", "seven_scenes_kitchen")]
)
def test_samples_are_pinned_as_they_lie_in_the_shared_data(name: str, folder: str, shared_dir: Path) -> None:
    found = known_adapter(name).records(shared_dir / "data" / folder, known_adapter(name).options())
    settings = load_eval_recipe(PROJECT_ROOT / "recipes/eval" / f"{name}.yaml").sequences
    assert {one.sequence_id: choose_frames(one, settings).frames_sha256 for one in found} == settings.sha256


@pytest.mark.parametrize(("name", "size"), [("game_loop", (280, 518)), ("seven_scenes", (378, 518))])
def test_the_header_says_how_a_full_model_is_run(name: str, size: tuple[int, int]) -> None:
    path = PROJECT_ROOT / "recipes" / "eval" / f"{name}.yaml"
    text = " ".join(header_of(path))
    changes = re.findall(r"(?:checkpoint|protocol)[\w.]*=\S+", text.split("With a full model: ")[1])
    recipe = load_eval_recipe(path, changes)
    found = reconstruction_recipe(runs_of(recipe)[0], recipe)
    assert (found.schedule.chunk_size, found.schedule.overlap) == (60, 30)
    assert found.input.image_hw is None and found.input.resize is not None
    image_hw = {"game_loop": (140, 252), "seven_scenes": (480, 640)}[name]
    assert found.input.resize.target_hw(image_hw) == size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("benchmark.towns=true", "towns are made"),
        ("benchmark.adapter=null", "data_root needs the adapter"),
        ("benchmark={name: x}", "give index, or adapter"),
        ("protocol.share=[2,2]", "must be"),
        ("methods.data={kind: scal3r}", "'data' cannot name"),
        ("methods.a/b={kind: scal3r}", "'a/b' cannot name"),
        ("methods.x={kind: magic}", "magic"),
        ("methods={scal3r: null}", "no method is left"),
        ("task=train", "is a recipe for `scal3r train`"),
        ("protocol.align=best", "protocol.align"),
        ("sequences.framees=3", "unknown key 'sequences.framees'"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(change: str, message: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "task: eval\noutput_dir: out\nbenchmark: {name: x, adapter: towns, data_root: here}\n"
        "methods: {scal3r: {kind: scal3r}}\n"
    )
    assert isinstance(load_eval_recipe(recipe), EvalRecipe)
    with pytest.raises(UserError) as caught:
        load_eval_recipe(recipe, [change])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_method_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "task: eval\noutput_dir: out\nbenchmark: {name: x, index: i.parquet}\nmethods: {ours: {kind: scal3r}}\n"
    )
    with pytest.raises(UserError, match=r"method ours has no checkpoint; add checkpoint=FOLDER"):
        runs_of(load_eval_recipe(recipe))


def test_other_commands_say_whose_recipe_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(PROJECT_ROOT / "recipes" / "eval" / "synthetic.yaml")
    assert main(["train", recipe]) == 2
    assert "is a recipe for `scal3r eval`" in capsys.readouterr().err
    assert main(["config", recipe, "output_dir=elsewhere"]) == 0
    assert "output_dir: elsewhere\n" in capsys.readouterr().out
