"""The package that docs/extending describes, put together from its pages, installed and run."""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scal3r_data_tools import registry
from scal3r_data_tools.index import main as index_main
from scal3r_train import plugins
from scal3r_train.config import UserError, dump_yaml, load_config, validate_mapping
from scal3r_train.data.index.index import load_index
from scal3r_train.losses.objective import ObjectiveSettings, compute_terms
from scal3r_train.losses.targets import build_targets
from scal3r_train.model.modeling_scal3r import Scal3RModel
from tests.conftest import PROJECT_ROOT
from tests.eval.conftest import WriteRecipe, checkpoint, write_recipe  # noqa: F401  fixtures
from tests.eval.evaluating import FIRST, run
from tests.losses.conftest import make_batch, perfect_output  # noqa: F401  fixtures
from tests.model.tiny import random_images, tiny_config
from tests.training import tiny

PAGES = sorted((PROJECT_ROOT / "docs" / "extending").glob("[a-z]*.md"))
FENCED = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MODULE = re.compile(r"^The module `roads_extras\.(\w+)`:$", re.MULTILINE)
PACKAGE = "roads_extras"
OTHERS = """
[scal3r.adapters]
drives = os:path
tum = os:path
[scal3r.losses]
log_deep = os:nothing
log_of = os:path
"""


def blocks(page: Path) -> dict[str, str]:
    """The fenced blocks of a page by language."""
    return dict(FENCED.findall(page.read_text(encoding="utf-8")))


def install(folder: Path, name: str, entry_points: str) -> None:
    """Write what pip leaves of a package beside its modules."""
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(entry_points)


def as_entry_points(toml: str) -> str:
    """The toml of a pyproject as the ini that an installed package has."""
    return re.sub(r'\[project\.entry-points\."([\w.]+)"\]', r"[\1]", toml).replace('"', "")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The pages' package on the path."""
    folder = tmp_path / "site"
    install(folder, PACKAGE, "\n".join(as_entry_points(blocks(page)["toml"]) for page in PAGES))
    (folder / PACKAGE).mkdir()
    for page in PAGES:
        (name,) = MODULE.findall(page.read_text(encoding="utf-8"))
        (folder / PACKAGE / f"{name}.py").write_text(blocks(page)["python"])
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]


def test_every_page_has_a_short_example() -> None:
    assert [page.stem for page in PAGES] == ["dataset", "loss", "metric", "patch_encoder"]
    for page in PAGES:
        code = [line for line in blocks(page)["python"].splitlines() if line.strip()]
        assert len(code) <= 30, page


def test_the_loss_is_what_it_says(installed: Path, make_batch: Any, perfect_output: Any) -> None:  # noqa: F811
    targets = build_targets(make_batch(), "chunk", lambda total: total, 1)
    output = perfect_output(targets)
    output = replace(output, depth=1.1 * output.depth)
    settings = validate_mapping(ObjectiveSettings, {"added": {"log_depth": {"weight": 0.5}}}, "recipe")
    term = compute_terms(output, targets, settings)["log_depth"]
    assert term.weight == 0.5
    torch.testing.assert_close(term.term.total, term.term.count * math.log(1.1))
    assert term.term.count.sum() == targets.mask.sum()
    without = replace(output, depth=None, depth_conf=None)
    assert "log_depth" not in compute_terms(without, targets, settings), "its head is off"


def test_an_added_loss_alone_teaches_its_head(installed: Path) -> None:
    off = {"camera": {"weight": 0.0}, "depth": {"weight": 0.0}, "points": {"weight": 0.0}}
    for weight, heads in ((0.5, ("depth",)), (0.0, ())):
        added = {"log_depth": {"weight": weight}}
        assert validate_mapping(ObjectiveSettings, off | {"added": added}, "recipe").heads == heads


def test_settings_of_a_loss_are_read_written_and_checked(installed: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "losses.yaml"
    recipe.write_text("added: {log_depth: {weight: 0.5, min_depth: 0.01}}\n")
    settings = load_config(ObjectiveSettings, recipe)
    assert settings.added["log_depth"].min_depth == 0.01  # type: ignore[attr-defined]
    recipe.write_text(dump_yaml(settings))
    assert load_config(ObjectiveSettings, recipe) == settings
    for bad, said in (
        ("{log_depth: {wieght: 1.0}}", "unknown key 'wieght'; did you mean 'weight'"),
        ("{log_depth: {weight: -1.0}}", "log_depth: weight"),
        ("{log_depth: 3}", "a section of settings"),
        ("{log_deep: {}}", "loss 'log_deep' is unknown; did you mean log_depth? known are log_depth"),
    ):
        with pytest.raises(UserError) as caught:
            load_config(ObjectiveSettings, None, [f"added={bad}"])
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_run_trains_with_the_loss_and_the_encoder(installed: Path, towns: Path, tmp_path: Path) -> None:
    network = tiny.NETWORK | {"patch_encoder": "two_step", "patch_encoder_options": {"width": 4}}
    recipe = tiny.recipe(
        towns,
        tmp_path / "run",
        {
            "model": {"network": network},
            "losses": {"added": {"log_depth": {"weight": 0.5}}},
            "optim": {"num_steps": 2},
        },
    )
    tiny.train(recipe)
    logged = tiny.steps(tmp_path / "run")[-1]
    assert logged["weighted/log_depth"] == pytest.approx(0.5 * logged["log_depth"])
    model = Scal3RModel.from_pretrained(tmp_path / "run" / "model")
    assert model.config.patch_encoder_options == {"width": 4}
    assert type(model.aggregator.patch_embed).__name__ == "TwoStepEncoder"


def test_a_model_keeps_its_encoder(installed: Path, tmp_path: Path) -> None:
    model = Scal3RModel(tiny_config(patch_encoder="two_step")).eval()
    images = random_images(1, 2, 3, dtype=torch.float32)
    model.save_pretrained(tmp_path / "model")
    again = Scal3RModel.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(images).depth, model(images).depth, rtol=0, atol=0)


def test_an_encoder_that_is_not_installed_is_named() -> None:
    with pytest.raises(
        ValueError, match="patch_encoder two_step is not one of dinov2, conv, correlation, direct, and no"
    ):
        tiny_config(patch_encoder="two_step")
    with pytest.raises(ValueError, match="patch_encoder_options are for added encoders"):
        tiny_config(patch_encoder_options={"width": 3})


def test_the_data_set_is_indexed(installed: Path, tmp_path: Path) -> None:
    drive = tmp_path / "drives" / "monday"
    drive.mkdir(parents=True)
    rows = []
    for frame in range(3):
        Image.new("RGB", (12, 8)).save(drive / f"{frame}.png")
        rows.append([10, 10, 6, 4, 1, 0, 0, frame, 0, 1, 0, 0, 0, 0, 1, 0])
    np.savetxt(drive / "cameras.txt", rows)
    assert index_main("drives", tmp_path / "drives", tmp_path / "drives.parquet", []) == 0
    record = load_index(tmp_path / "drives.parquet").find("monday")
    assert record.cam_from_world is not None
    np.testing.assert_array_equal(record.cam_from_world[:, 0, 3], [0, -1, -2])


def test_the_metric_is_a_row_of_the_report(
    installed: Path,
    write_recipe: WriteRecipe,  # noqa: F811
    tmp_path: Path,
) -> None:
    recipe = write_recipe(
        protocol={"metrics": ["end_error"]},
        methods={"line": {"kind": "baseline", "baseline": "straight_line"}},
    )
    results = run(recipe)
    scores = results.scores["line"][FIRST][0]
    assert scores.metrics["end_error_m"] > 0
    assert scores.identity["metrics"] == {"end_error": "roads_extras 1.0"}
    assert results.summaries["line"]["end_error_percent"].num_sequences == 2
    assert "| end error (m) |" in (tmp_path / "out" / "report.md").read_text()

    (installed / PACKAGE / "end_error.py").write_text(
        blocks(PROJECT_ROOT / "docs" / "extending" / "metric.md")["python"].replace("float(error)", "1 / 0")
    )
    del sys.modules["roads_extras.end_error"]
    metadata = installed / "roads_extras-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 1.0", "Version: 1.1"))
    importlib.invalidate_caches()
    results = run(recipe)
    scores = results.scores["line"][FIRST][0]
    assert scores.failure is None and "ate_rmse_m" in scores.metrics
    assert scores.partial_failures == {"added": "metric 'end_error': ZeroDivisionError: division by zero"}


def test_unknown_names_are_said_with_those_that_are_known(installed: Path, write_recipe: WriteRecipe) -> None:  # noqa: F811
    with pytest.raises(
        UserError,
        match="dataset 'drvies' is unknown; did you mean drives\\? known are aria_digital_twin, .*drives",
    ):
        registry.known_adapter("drvies")
    with pytest.raises(
        UserError,
        match="metric 'end' is unknown; did you mean end_error\\? known are end_error; a package adds one",
    ):
        run(write_recipe(protocol={"metrics": ["end"]}))


def test_ours_win_and_two_of_a_name_are_refused(installed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    install(
        other,
        "other_extras",
        OTHERS,
    )
    sys.path.insert(0, str(other))
    try:
        importlib.invalidate_caches()
        assert registry.known_adapter("tum") is registry.ADAPTERS["tum"]
        with pytest.raises(
            UserError, match=r"'drives' is added by other_extras 1.0 and roads_extras 1.0; uninstall"
        ):
            registry.known_adapter("drives")
        for name, said in (
            ("log_deep", "of the package other_extras 1.0 cannot be imported: AttributeError"),
            ("log_of", "os:path is a module, not a ObjectiveSettings"),
        ):
            with pytest.raises(UserError, match=said):
                plugins.load_plugin(plugins.LOSSES, name, ObjectiveSettings)
    finally:
        sys.path.remove(str(other))
