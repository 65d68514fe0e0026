"""Every recorded tensor of a folder of goldens is reproduced within its tolerance.

The folder is given by SCAL3R_GOLDENS (default ../shared/goldens). An entry of its manifest is recomputed by
the function `check_<kind>(golden) -> {key: tensor}` for the entry's kind, which must cover every `out.*` key.
"""

import importlib
import os
from pathlib import Path

import pytest

from tests.conftest import PROJECT_ROOT
from tests.golden.reader import Golden, read_manifest

pytestmark = pytest.mark.golden

FOLDER = Path(os.environ.get("SCAL3R_GOLDENS", PROJECT_ROOT.parent / "shared" / "goldens"))
if not FOLDER.is_dir() and "SCAL3R_GOLDENS" not in os.environ:
    pytest.skip(f"goldens not found at {FOLDER} (set SCAL3R_GOLDENS)", allow_module_level=True)

# The module of each kind's function, imported when needed: a fault in one fails its own kinds only.
CHECKS = {
    "amu": "check_model",
    "newton_schulz": "check_model",
    "rope2d": "check_model",
    "dino_vit": "check_model",
    "aggregator": "check_model",
    "small_signal": "check_model",
    "heads": "check_model",
    "full_model": "check_model",
    "sim3_align": "check_geometry",
    "pose_encoding": "check_geometry",
    "preprocess": "check_preprocess",
    "salad": "check_loops",
    "loop_search": "check_loops",
    "fallback_loop_detector": "check_loops",
    "pipeline_tables": "check_loops",
    "sim3_pose_graph": "check_pose_graph",
    "post_process": "check_pose_graph",
}


@pytest.mark.parametrize("name", read_manifest(FOLDER))
def test_reproduces_golden(name: str) -> None:
    """All `out.*` tensors are recomputed, and all recomputed tensors agree with the recorded ones."""
    golden = Golden.load(FOLDER, name)
    kind = golden.config["kind"]
    check = vars(importlib.import_module(f"tests.golden.{CHECKS[kind]}"))[f"check_{kind}"]
    recomputed = check(golden)
    missing = sorted(set(golden.keys("out.")) - set(recomputed))
    assert not missing, f"not recomputed: {', '.join(missing)}"
    unknown = sorted(set(recomputed) - set(golden.keys()))
    assert not unknown, f"recomputed but not recorded: {', '.join(unknown)}"
    results = [golden.compare(key, value) for key, value in recomputed.items()]
    failures = [message for ok, message in results if not ok]
    assert not failures, "\n".join([f"{len(failures)} of {len(results)} tensors differ:", *failures])
