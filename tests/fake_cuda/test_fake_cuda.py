"""Training and reconstruction on a CUDA device without a GPU: where tensors lie, how often host and device wait.

An operation on tensors of two devices raises in the worker. Counts of transfers may fall, not grow: a copy or a wait in
the middle of a step costs a GPU more than its arithmetic suggests.
"""

from __future__ import annotations

import fcntl
import json
import os
from typing import Any

import pytest
import torch

from tests.conftest import LIMIT_S, PROJECT_ROOT
from tests.fake_cuda.device import build, compiler
from tests.forking import ForkServer

pytestmark = pytest.mark.timeout(LIMIT_S)
# Newton-Schulz: 3 products in each of 2 iterations, of 3 matrices in 2 memories; twice as many in backward.
STRICT_PRODUCTS = 3 * 2 * 3 * 2
TARGETS_PRODUCTS = 2  # true points from depth and cameras, outside of the network
MODES = [f"{precision} {mode}" for precision in ("fp32", "bf16") for mode in ("none", "blocks", "segments")]
BATCH_FIELDS = 5  # tensors of a SequenceBatch

Results = dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory, forks: ForkServer) -> Results:
    """Return what the worker's runs did, run once even when several test processes ask."""
    if compiler() is None:
        pytest.skip("no C++ compiler (c++, or what CXX names) to build tests/fake_cuda/guard.cpp")
    if torch.version.cuda is not None:
        pytest.skip("this torch has a real CUDA device guard, beside which no pretended one can stand")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "fake_cuda"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "results.json").exists():
            library = build(PROJECT_ROOT / "build" / "fake_cuda")
            program = ("tests/fake_cuda/worker.py", library, folder / "results.json")
            done = forks.start(*program).wait(LIMIT_S)
            assert done.returncode == 0, done.stderr[-5000:]
    found: Results = json.loads((folder / "results.json").read_text())
    return found


def assert_at_most(counts: dict[str, int], **allowed: int) -> None:
    """Compare counts of transfers with what is allowed; others must be 0."""
    most = {name: allowed.get(name.replace(" ", "_"), 0) for name in counts}
    grown = {name: (counts[name], most[name]) for name in counts if counts[name] > most[name]}
    assert not grown, f"more transfers than before (now, allowed): {grown}"


@pytest.mark.parametrize("mode", MODES)
def test_a_training_step_copies_its_batch_and_waits_three_times(results: Results, mode: str) -> None:
    """For the results, for the gradient norms, for the vote."""
    run = results[f"step {mode}"]
    assert run["devices"] == ["cuda:0"]
    assert_at_most(run["counts"], waits=3, to_device=BATCH_FIELDS)


def test_a_logged_step_and_accumulation(results: Results) -> None:
    """One more wait and one more copy, for the numbers that it logs, whatever the number of micro-steps."""
    assert_at_most(results["logged step"]["counts"], waits=4, to_device=2 * BATCH_FIELDS + 1)


def test_validation(results: Results) -> None:
    assert_at_most(results["validation"]["counts"], waits=1, to_device=BATCH_FIELDS + 1)


def test_reconstruction_copies_images_in_and_predictions_out(results: Results) -> None:
    """Three chunks: the cameras, depth and its confidence, and with the point head's two maps more."""
    for name, fields, chunks in (
        ("reconstruction", 3, 3),
        ("reconstruction bf16", 5, 3),
        ("full reconstruction", 3, 1),
    ):
        assert results[name]["devices"] == ["cpu"]
        assert_at_most(results[name]["counts"], to_device=chunks, to_host=fields * chunks)


def test_streaming_copies_no_more(results: Results) -> None:
    assert results["streaming"]["devices"] == ["cpu"]
    assert_at_most(results["streaming"]["counts"], to_device=3, to_host=5 * 3)


def test_the_full_network_passes_as_the_small_one(results: Results) -> None:
    assert_at_most(results["full step"]["counts"], waits=3, to_device=BATCH_FIELDS)


@pytest.mark.parametrize("mode", ["none", "blocks", "segments"])
def test_full_precision_is_ieee_float32_in_products_and_convolutions(results: Results, mode: str) -> None:
    run = results[f"step fp32 {mode}"]
    assert set(run["products"]) == set(run["convolutions"]) == {"float32 ieee"}


@pytest.mark.parametrize("mode", ["none", "blocks", "segments"])
def test_reduced_precision_is_strict_in_the_memories_updates_alone(results: Results, mode: str) -> None:
    """Forward and backward; an update is never computed again."""
    run = results[f"step bf16 {mode}"]
    assert run["products"]["float32 ieee"] == 3 * STRICT_PRODUCTS + TARGETS_PRODUCTS
    assert set(run["products"]) == {"bfloat16 tf32", "float32 ieee", "float32 tf32"}
    assert set(run["convolutions"]) == {"bfloat16 tf32", "float32 tf32"}


def test_reconstruction_computes_in_the_precision_of_training(results: Results) -> None:
    exact, narrow = results["reconstruction"], results["reconstruction bf16"]
    assert set(exact["products"]) == set(exact["convolutions"]) == {"float32 ieee"}
    assert narrow["products"]["float32 ieee"] == STRICT_PRODUCTS
    assert set(narrow["products"]) == {"bfloat16 tf32", "float32 ieee", "float32 tf32"}
    assert set(narrow["convolutions"]) == {"bfloat16 tf32", "float32 tf32"}
    assert results["streaming"]["products"]["float32 ieee"] == 3 * STRICT_PRODUCTS
