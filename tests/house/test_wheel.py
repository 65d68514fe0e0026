"""What pip installs works by itself: a wheel made from the sdist, in an environment of its own, in another folder.

The dependencies are those of the environment that runs the tests; nothing is downloaded.
"""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import PROJECT_ROOT

SOURCES = (
    "scal3r_train",
    "eval",
    "data_tools",
    "recipes",
    "assets",
    "examples",
    "MANIFEST.in",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
LIMIT_S = 250
Run = Callable[..., str]


def build(kind: str, source: Path, target: Path) -> Path:
    """Build an sdist or a wheel as pip would, without its isolated environment, which needs the network."""
    command = [sys.executable, "-c", BUILD.format(kind=kind), str(target)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr[-2000:]
    return target / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from what the sdist unpacks to; the checkout stays as it is."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        (source / name).symlink_to(PROJECT_ROOT / name)
    sdist = build("sdist", source, folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    for example in (PROJECT_ROOT / "examples").glob("*.[pi]*"):
        assert (unpacked / "examples" / example.name).read_bytes() == example.read_bytes()
    return build("wheel", unpacked, folder)


def test_the_wheel_holds_what_the_checkout_ships(wheel: Path) -> None:
    if not (PROJECT_ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    for folder, inside in (
        ("scal3r_train", "scal3r_train"),
        ("eval", "scal3r_eval"),
        ("data_tools", "scal3r_data_tools"),
        ("recipes", "scal3r_train/recipes"),
        ("assets", "scal3r_train/assets"),
    ):
        listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", folder]
        names = subprocess.run(listing, cwd=PROJECT_ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, names.split("\0")):
            shipped = f"{inside}/{Path(name).relative_to(folder).as_posix()}"
            assert held.pop(shipped) == (PROJECT_ROOT / name).read_bytes(), name
    left = {name for name in held if ".dist-info/" not in name}
    assert not left, "the wheel holds what is not in the checkout"


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return what runs a program of a fresh environment, which holds the wheel, in a folder of its own."""
    pytest.importorskip("pip")
    folder = tmp_path_factory.mktemp("elsewhere")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    # Behind its own packages those that are installed here. Their .pth files, an editable checkout's too, do not count.
    (site,) = environment.glob("lib/python*/site-packages")
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "borrowed.pth").write_text("".join(f"{path}\n" for path in borrowed))
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "--quiet"]
    flags = ("--no-deps", "--no-index", "--ignore-installed", "--disable-pip-version-check")
    subprocess.run([*pip, "install", *flags, str(wheel)], check=True, timeout=LIMIT_S)
    work = folder / "work"
    work.mkdir()
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(program: str, *words: str) -> str:
        command = [str(environment / "bin" / program), *words]
        done = subprocess.run(command, cwd=work, env=outside, capture_output=True, text=True, timeout=LIMIT_S)
        assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
        return done.stdout

    return run


@pytest.mark.slow
def test_its_commands_work_in_another_folder(elsewhere: Run, wheel: Path) -> None:
    """The first ten minutes of a user: look at a recipe, train, reconstruct, evaluate."""
    environment = elsewhere("python", "-c", "import scal3r_train, scal3r_eval; print(scal3r_eval.__file__)")
    assert "/elsewhere" in environment and str(PROJECT_ROOT) not in environment
    launch = Path(elsewhere("scal3r", "recipes", "--path", "accelerate/zero2.yaml").strip())
    assert launch.read_bytes() == (PROJECT_ROOT / "recipes/accelerate/zero2.yaml").read_bytes()
    assert "name: debug" in elsewhere("scal3r", "config", "debug/cpu")
    small = ("num_sequences=6", "num_frames=48", "seed=21", "height=28", "width=42", "num_workers=1")
    elsewhere("scal3r", "data", "synth", "runs/debug/towns", *small)
    elsewhere("scal3r", "train", "debug/cpu", "output_dir=trained")
    town = ("num_sequences=1", "num_frames=16", "height=48", "width=72", "num_workers=1")
    elsewhere("scal3r", "data", "synth", "town", *town)
    row = "from scal3r_train.data.index.index import load_index; print(load_index('town/index.parquet')[0].sequence_id)"
    name = elsewhere("python", "-c", row).strip()
    tiny = ("reconstruct/demo", "model.checkpoint=scal3r-tiny")
    elsewhere("scal3r", "reconstruct", f"town/index.parquet#{name}", "scene", *tiny)
    frames = "from scal3r_train import load_scene; print(load_scene('scene').info.num_frames)"
    assert elsewhere("python", "-c", frames).strip() == "16"
    options = '["num_sequences=1", "num_frames=16", "height=48", "width=72", "seed=13"]'
    fewer = ("methods.no_gcs=null", "methods.no_gcm=null", "sequences.sha256={}", "output_dir=evaluated")
    elsewhere("scal3r", "eval", "eval/synthetic", f"benchmark.options={options}", *fewer)
    results = (
        "import json; print(json.dumps(json.load(open('evaluated/results.json'))['summaries']['scal3r']))"
    )
    assert json.loads(elsewhere("python", "-c", results))["ate_rmse_m"]["mean"] > 0
