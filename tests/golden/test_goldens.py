"""Every recorded tensor of a folder of goldens is reproduced within its tolerance.

The folder is given by SCAL3R_GOLDENS (default ../shared/goldens). An entry of its manifest is recomputed by
the function `check_<kind>(golden) -> {key: tensor}` for the entry's kind, which must cover every `out.*` key.
"""

import os
from pathlib import Path

import pytest

from tests.conftest import PROJECT_ROOT
from tests.golden.checks import disagreements
from tests.golden.reader import Golden, read_manifest

pytestmark = pytest.mark.golden

FOLDER = Path(os.environ.get("SCAL3R_GOLDENS", PROJECT_ROOT.parent / "shared" / "goldens"))
if not FOLDER.is_dir() and "SCAL3R_GOLDENS" not in os.environ:
    pytest.skip(f"goldens not found at {FOLDER} (set SCAL3R_GOLDENS)", allow_module_level=True)


@pytest.mark.parametrize("name", read_manifest(FOLDER))
def test_reproduces_golden(name: str) -> None:
    """All `out.*` tensors are recomputed, and all recomputed tensors agree with the recorded ones."""
    found = disagreements(Golden.load(FOLDER, name))
    assert not found, "\n".join([f"{len(found)} tensors differ:", *found])
