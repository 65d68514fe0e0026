"""The recipe loader: what it reads, what it refuses, and that a refusal is one line that names the place."""

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator
from typing_extensions import Self

from scal3r_train.config import (
    StrictModel,
    UserError,
    atomic_output,
    dump_yaml,
    load_config,
    load_mapping,
    run_command,
    write_text_atomically,
)


class Optim(StrictModel):
    lr: float = Field(1e-4, gt=0)
    kind: Literal["adamw", "sgd"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    nesterov: bool = False
    note: str = ""
    folder: Path | None = None


class Stage(StrictModel):
    steps: int = Field(gt=0)
    name: str = "stage"


class Recipe(StrictModel):
    optim: Optim = Optim()
    stages: tuple[Stage, ...] = ()
    sources: dict[str, Optim] = {}
    weight_decay: float | None = None
    total_steps: int = 0

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.total_steps and self.total_steps != sum(stage.steps for stage in self.stages):
            raise ValueError("total_steps must be the sum of the stages' steps")
        return self


@pytest.fixture
def write(tmp_path: Path):
    """Return a function that writes a recipe into the test's folder and returns its path."""

    def write_file(text: str, name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write_file


def refusal(path: Path | None, *overrides: str) -> str:
    """Return the line with which a recipe is refused."""
    with pytest.raises(UserError) as caught:
        load_config(Recipe, path, overrides)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_reads_yaml_1_2(write) -> None:
    recipe = load_config(
        Recipe,
        write(
            "optim: {lr: 1e-5, note: no, betas: [0, 1], folder: a/b}\n"
            "stages:\n- {steps: 010, name: on}\n- {steps: 7}\n"
        ),
    )
    assert recipe.optim.lr == 1e-5
    assert recipe.optim.note == "no"
    assert recipe.optim.betas == (0.0, 1.0)
    assert recipe.optim.folder == Path("a/b")
    assert [(stage.steps, stage.name) for stage in recipe.stages] == [(10, "on"), (7, "stage")]


@pytest.mark.parametrize("text", ["", "# only a comment\n"])
def test_empty_file_gives_the_defaults(write, text: str) -> None:
    assert load_config(Recipe, write(text)) == Recipe()


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Recipe().optim.lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimm: {}", "unknown key 'optimm'; did you mean 'optim'?"),
        ("optim: {LR: 1}", "unknown key 'optim.LR'"),
        ("optim: {betta: 1}", "unknown key 'optim.betta'; did you mean 'betas'?"),
        ("stages: [{steps: 1, nam: x}]", "unknown key 'stages.0.nam'; did you mean 'name'?"),
        ("sources: {a: {knd: x}}", "unknown key 'sources.a.knd'; did you mean 'kind'?"),
        ("optim: {zzz: 1}", "known keys here: betas, folder, kind, lr, nesterov, note"),
        ("optim: {lr: -1}", "optim.lr = -1: it should be a number above 0"),
        ("optim: {lr: .nan}", "optim.lr = nan: it should be a finite number above 0"),
        ("optim: {lr: .inf}", "optim.lr = inf: it should be a finite number above 0"),
        ("optim: {lr: fast}", "optim.lr = 'fast': it should be a number above 0"),
        ("optim: {lr: '1e-4'}", "optim.lr = '1e-4': it should be a number above 0; write it without quotes"),
        ("optim: {kind: lion}", "optim.kind = 'lion': it should be 'adamw' or 'sgd'"),
        ("optim: {nesterov: no}", "optim.nesterov = 'no': it should be true or false"),
        ("optim: {note: 3}", "optim.note = 3: it should be text"),
        ("optim: 3", "optim = 3: it should be a section of keys: betas, folder, kind, lr, nesterov, note"),
        ("stages: {steps: 1}", 'stages = {"steps": 1}: it should be a list of sections of keys'),
        ("stages: [{}]", "key 'stages.0.steps' is missing"),
        ("stages: [{steps: 1.5}]", "stages.0.steps = 1.5: it should be a whole number above 0"),
        ("total_steps: 3", "total_steps must be the sum of the stages' steps"),
        ("{optim: {lr: 0}, weight_decay: x}", "(and 1 more problem: weight_decay)"),
        ("- 1", "a recipe must map keys to values"),
        ("a: &x [*x]", "no value inside itself"),
        ("? [1, 2]\n: 3", "write plain keys"),
        ("optim: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("optim: {lr: 1}\nstages:\n- steps: 0", ":3: stages.0.steps = 0"),
        ("sources:\n  a:\n    lr: .inf", ":3: sources.a.lr = inf"),
        ("sources:\n  a:\n    rl: 1", ":3: unknown key 'sources.a.rl'"),
    ],
)
def test_refuses(write, text: str, expected: str) -> None:
    path = write(text)
    line = refusal(path)
    assert line.startswith(str(path))
    assert expected in line


def test_repeated_key_names_file_and_line(write) -> None:
    path = write("optim:\n  lr: 1\n  note: x\n  lr: 2\n")
    line = refusal(path)
    assert line.startswith(f"{path}:4: ")
    assert "duplicate key" in line
    assert '"lr"' in line


def test_malformed_yaml_names_the_line(write) -> None:
    path = write("optim:\n  lr: [1\nnote: x\n")
    assert refusal(path).startswith(f"{path}:3: ")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a: \x00"])
def test_binary_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    assert str(path) in refusal(path)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.yaml")
    assert "cannot be read" in refusal(tmp_path)


class TestExtends:
    def test_mappings_merge_and_lists_replace(self, write) -> None:
        write("optim: {lr: 2, note: old}\nstages: [{steps: 1}, {steps: 2}]\n", "base.yaml")
        child = write("extends: ../base.yaml\noptim: {note: new}\nstages: [{steps: 3}]\n", "deep/child.yaml")
        grandchild = write("extends: deep/child.yaml\nweight_decay: 0.1\n", "grandchild.yaml")
        recipe = load_config(Recipe, grandchild)
        assert recipe.optim == Optim(lr=2.0, note="new")
        assert [stage.steps for stage in recipe.stages] == [3]
        assert recipe.weight_decay == 0.1
        assert load_config(Recipe, child).weight_decay is None

    def test_null_replaces_a_mapping(self, write) -> None:
        write("sources: {a: {lr: 1}}\nweight_decay: 1\n", "base.yaml")
        child = write("extends: base.yaml\nweight_decay: null\n")
        assert load_mapping(child)["weight_decay"] is None

    def test_circle_is_refused(self, write) -> None:
        write("extends: b.yaml\n", "a.yaml")
        path = write("extends: a.yaml\n", "b.yaml")
        assert "goes in a circle" in refusal(path)

    def test_missing_parent_is_refused_with_its_child(self, write) -> None:
        path = write("extends: none.yaml\n")
        line = refusal(path)
        assert "none.yaml, which" in line
        assert str(path) in line

    @pytest.mark.parametrize("parent", ["3", "[a.yaml, b.yaml]", "null"])
    def test_parent_must_be_one_path(self, write, parent: str) -> None:
        assert "`extends` must be one path" in refusal(write(f"extends: {parent}\n"))


class TestOverrides:
    def test_values_are_yaml(self, write) -> None:
        path = write("stages: [{steps: 1}, {steps: 2}]\noptim: {lr: 3}\n")
        recipe = load_config(
            Recipe,
            path,
            [
                "stages.1.steps=7",
                "optim.lr=1e-5",
                "optim.note=no",
                "optim.betas=[0.5, 0.6]",
                "sources={a: {lr: 2}}",
                "weight_decay=null",
                "optim.folder=a=b.parquet#c",
            ],
        )
        assert [stage.steps for stage in recipe.stages] == [1, 7]
        assert recipe.optim == Optim(lr=1e-5, note="no", betas=(0.5, 0.6), folder=Path("a=b.parquet#c"))
        assert recipe.sources == {"a": Optim(lr=2.0)}

    def test_later_overrides_win(self) -> None:
        assert load_config(Recipe, None, ["optim.lr=1", "optim.lr=2"]).optim.lr == 2

    def test_sections_absent_from_the_file_are_made(self, write) -> None:
        assert load_config(Recipe, write("sources:\n"), ["sources.a.lr=2"]).sources["a"].lr == 2

    @pytest.mark.parametrize(
        ("override", "expected"),
        [
            ("optim.lrr=1", "unknown key 'optim.lrr'; did you mean 'lr'?"),
            ("optim.lr=0", "optim.lr = 0: it should be a number above 0"),
            ("optim.lr", "not of the form key.path=value"),
            ("=1", "not of the form key.path=value"),
            ("optim..lr=1", "not of the form key.path=value"),
            ("optim.lr=", "has no value"),
            ("optim.lr=[", "override 'optim.lr=[': "),
            ("stages.2.steps=1", "'2' is no index of that list (allowed: 0 to 1)"),
            ("stages.-1.steps=1", "'-1' is no index of that list"),
            ("stages.last=1", "'last' is no index of that list"),
            ("optim.lr.x=1", "optim.lr is 3, which has no keys below it"),
            ("extends=other.yaml", "cannot be overridden"),
        ],
    )
    def test_refuses(self, write, override: str, expected: str) -> None:
        path = write("stages: [{steps: 1}, {steps: 2}]\noptim: {lr: 3}\n")
        assert expected in refusal(path, override)


@settings(max_examples=50, deadline=None)
@given(
    note=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20),
    lr=st.floats(min_value=1e-12, max_value=1e12),
    steps=st.lists(st.integers(1, 10**9), max_size=3),
    weight_decay=st.none() | st.floats(-1e300, 1e300),
)
def test_dump_is_read_back_unchanged(tmp_path_factory, note, lr, steps, weight_decay) -> None:
    optim = Optim(lr=lr, note=note, folder=Path("x"))
    recipe = Recipe(
        optim=optim,
        stages=tuple(Stage(steps=n) for n in steps),
        weight_decay=weight_decay,
        sources={note: optim},
    )
    path = tmp_path_factory.mktemp("dump") / "recipe.yaml"
    path.write_text(dump_yaml(recipe), encoding="utf-8")
    assert load_config(Recipe, path) == recipe


@pytest.mark.parametrize(
    "note", ["no", "yes", "1e-5", "null", "~", "010", "2024-01-01", "a: b", "#", "\n", "\u2028"]
)
def test_dump_keeps_strings_that_look_like_something_else(write, note: str) -> None:
    recipe = Recipe(optim=Optim(note=note))
    assert load_config(Recipe, write(dump_yaml(recipe))) == recipe


class TestAtomicOutput:
    def test_replaces_the_file_and_makes_folders(self, tmp_path: Path) -> None:
        path = tmp_path / "a" / "b.txt"
        write_text_atomically(path, "one")
        write_text_atomically(path, "two")
        assert path.read_text() == "two"
        assert [file.name for file in path.parent.iterdir()] == ["b.txt"]

    def test_failure_keeps_the_old_file_and_leaves_nothing_else(self, tmp_path: Path) -> None:
        path = tmp_path / "points.ply"
        path.write_text("old")

        def write_half() -> None:
            with atomic_output(path) as temporary:
                assert temporary.suffix == ".ply"
                temporary.write_text("half")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            write_half()
        assert path.read_text() == "old"
        assert [file.name for file in tmp_path.iterdir()] == ["points.ply"]


class TestRunCommand:
    @pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
    def test_exit_code_is_what_the_command_returns(self, returned: int | None, code: int) -> None:
        assert run_command(lambda: returned) == code

    @pytest.mark.parametrize(
        ("error", "code", "line"),
        [(UserError("a\nb"), 2, "scal3r: error: a b\n"), (KeyboardInterrupt(), 130, "scal3r: interrupted\n")],
    )
    def test_mistakes_are_one_line(self, capsys, error: BaseException, code: int, line: str) -> None:
        def fail() -> None:
            raise error

        assert run_command(fail) == code
        assert capsys.readouterr().err == line

    def test_our_own_faults_keep_their_traceback(self) -> None:
        with pytest.raises(ValueError, match="ours"):
            run_command(lambda: int("ours"))
