"""Importing is cheap: what a command does not use is not loaded."""

import subprocess
import sys

from tests.conftest import PROJECT_ROOT
from tests.forking import ForkServer

OPTIONAL = ("deepspeed", "wandb", "viser", "gtsam", "pycolmap", "evo")


def modules_after(statement: str) -> set[str]:
    """Return the top-level modules that a fresh Python holds after running `statement`."""
    listing = "' '.join({name.split('.')[0] for name in sys.modules})"
    code = f"{statement}\nimport sys\nsys.stdout.write('|' + {listing})"
    finished = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return set(finished.stdout.rpartition("|")[2].split())


def test_optional_packages_are_not_imported(forks: ForkServer) -> None:
    """By nothing that trains or reconstructs: a fork holds what its server imported (tests/forking.py)."""
    done = forks.run("-c", "import sys; print(' '.join({name.split('.')[0] for name in sys.modules}))")
    held = set(done.stdout.split())
    assert {"torch", "transformers", "scal3r_train"} <= held, done.stderr
    assert not held & set(OPTIONAL)


def test_package_itself_imports_no_torch() -> None:
    assert not modules_after("import scal3r_train") & {"torch", "transformers"}


def test_help_imports_neither_torch_nor_pydantic() -> None:
    held = modules_after("from scal3r_train.cli import build_parser\nbuild_parser().format_help()")
    assert not held & {*OPTIONAL, "torch", "transformers", "numpy", "pydantic"}


def test_planning_loads_neither_models_of_transformers_nor_the_compiler() -> None:
    """They take more than half of the time in which a plan must be printed."""
    code = (
        "import sys, scal3r_train.planning.report\nsys.exit(str(set(sys.argv[1:]) & set(sys.modules) or ''))"
    )
    heavy = ("transformers.modeling_utils", "torch._dynamo")
    finished = subprocess.run(
        [sys.executable, "-c", code, *heavy], cwd=PROJECT_ROOT, capture_output=True, text=True
    )
    assert finished.stderr.strip() == ""
