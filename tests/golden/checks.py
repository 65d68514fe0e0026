"""Which function recomputes which kind of golden, and what of a golden it does not reproduce."""

import importlib

from tests.golden.reader import Golden

# The module of each kind's function `check_<kind>`, imported when needed: a fault in one fails its own kinds only.
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


def disagreements(golden: Golden) -> list[str]:
    """Return a line for each `out.*` tensor that is not recomputed and each recomputed one that differs or is new."""
    kind = golden.config["kind"]
    check = vars(importlib.import_module(f"tests.golden.{CHECKS[kind]}"))[f"check_{kind}"]
    recomputed = check(golden)
    missing = [f"{key}: not recomputed" for key in sorted(set(golden.keys("out.")) - set(recomputed))]
    unknown = [f"{key}: recomputed but not recorded" for key in sorted(set(recomputed) - set(golden.keys()))]
    known = [golden.compare(key, value) for key, value in recomputed.items() if key in golden.tensors]
    return [*missing, *unknown, *(message for ok, message in known if not ok)]
