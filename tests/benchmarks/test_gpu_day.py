"""The GPU day: its parts at tiny sizes, and that no part's end takes another's results along.

The whole command with every part: pytest tests/benchmarks -m slow
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_day
from benchmarks.gpu import device_memory, table, traffic
from benchmarks.gpu.most_frames import most_that_fit
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.sizes import SIZES
from tests.benchmarks.broken_parts import LIMIT_S, part, results_of
from tests.conftest import PROJECT_ROOT

SLOW_PARTS = ("compiled",)
REHEARSAL_S = 600
pytestmark = pytest.mark.timeout(REHEARSAL_S)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of all parts but the slow ones, without the packages that a lent machine lacks."""
    file = tmp_path_factory.mktemp("rehearsal") / "rows.json"
    goldens = PROJECT_ROOT.parent / "shared" / "goldens"
    names = [one.name for one in PARTS if one.name not in SLOW_PARTS]
    command = [sys.executable, "-m", "tests.benchmarks.rehearsal", str(file), str(goldens), *names]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=REHEARSAL_S)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(file.read_text())


def test_every_part_fills_its_table(rehearsed: dict[str, list[dict[str, Any]]]) -> None:
    for one in PARTS:
        if one.name in SLOW_PARTS:
            continue
        rows = rehearsed[one.name]
        assert rows, one.name
        unknown = {key for row in rows for key in row} - set(one.columns)
        assert not unknown, f"{one.name}: no column for {unknown}"
        assert len(table.table(one, rows).splitlines()) == 2 + len(rows)


def test_steps_are_measured_in_every_mode(rehearsed: dict[str, list[dict[str, Any]]]) -> None:
    first, second = SIZES["tiny"].step_frames
    measured = [(row["frames"], row["checkpointing"]) for row in rehearsed["steps"]]
    assert measured == [
        (first, "none"), (first, "blocks"), (first, "segments"), (second, "blocks"), (second, "segments"),
    ]  # fmt: skip
    assert all(row["step_ms"] > 0 and row["tokens_per_s"] > 0 for row in rehearsed["steps"])


def test_stores_and_reference_are_compared(rehearsed: dict[str, list[dict[str, Any]]]) -> None:
    rows = rehearsed["stores"]
    states = [(row["schedule"], row["state"], row["precision"]) for row in rows]
    assert states == [
        *(("segments", state, "bfloat16") for state in ("device", "host", "disk")),
        ("layer by layer", "host", "float32"),
        ("segments", "host", "float32"),
        ("segments", "recompute", "bfloat16"),
    ]
    assert [row["frames"] for row in rehearsed["lengths"]] == list(SIZES["tiny"].video_frames)


def test_the_most_frames_are_found(rehearsed: dict[str, list[dict[str, Any]]]) -> None:
    found = {row["checkpointing"]: (row["frames"], row["too_many"]) for row in rehearsed["frames"]}
    most = SIZES["tiny"].frames_of_cpu
    assert found == dict.fromkeys(("none", "segments", "blocks"), (most, most + 1))


def test_goldens_agree(rehearsed: dict[str, list[dict[str, Any]]]) -> None:
    rows = rehearsed["goldens"]
    if not (PROJECT_ROOT.parent / "shared" / "goldens").is_dir():
        assert "no goldens in" in rows[0]["note"]
        pytest.skip("no goldens at hand")
    assert len(rows) > 8
    assert all(row["beyond"] == 0 and row["tensors"] > 0 for row in rows)


def test_a_part_that_fails_costs_no_other(tmp_path: Path) -> None:
    parts = tuple(part(name) for name in ("wrong", "killed", "cut_short", "well"))
    results = gpu_day.run_parts(parts, results_of(), tmp_path, 100, Path("somewhere"))
    found = results["parts"]
    assert [found[name]["status"] for name in found] == ["failed", "failed", "failed", "ok"]
    assert found["wrong"]["rows"] == [{"value": 3}]
    assert "an illegal memory access" in found["wrong"]["reason"]
    assert found["killed"]["reason"] == "ended by signal SIGKILL"
    assert found["cut_short"]["reason"] == "exit code 7"
    assert found["well"]["rows"] == [{"value": 1, "goldens": "somewhere"}]
    assert json.loads((tmp_path / "gpu_day.json").read_text()) == results
    text = (tmp_path / "gpu_day.md").read_text()
    assert "**wrong** (`wrong`, 0 s) - failed: RuntimeError: CUDA error" in text
    assert "| 3 |" in text
    assert "Traceback" in (tmp_path / "gpu_day.log").read_text()


def test_a_part_out_of_time_is_ended_with_its_children(tmp_path: Path) -> None:
    results = gpu_day.run_parts((part("too_slow", 3), part("well")), results_of(), tmp_path, 100, Path())
    late, after = results["parts"].values()
    assert late["status"] == "out of time"
    assert [row["value"] for row in late["rows"]] == [2]
    assert after["status"] == "ok"
    deadline = time.monotonic() + 10
    while is_running(late["rows"][0]["child"]):
        assert time.monotonic() < deadline, "the part's child outlived it"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Return whether a process is there and no zombie."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_nothing_starts_after_the_budget(tmp_path: Path) -> None:
    results = gpu_day.run_parts((part("too_slow"), part("well")), results_of(), tmp_path, 3, Path())
    statuses = [found["status"] for found in results["parts"].values()]
    assert statuses == ["out of time", "not run"]


def test_rows_are_on_disk_while_a_part_runs(tmp_path: Path) -> None:
    """Whoever ends the whole command in the middle of a part keeps what that part had found."""
    code = (
        "import sys, signal; from pathlib import Path; from benchmarks import gpu_day;"
        "from tests.benchmarks.broken_parts import part, results_of;"
        "signal.signal(signal.SIGTERM, gpu_day.ended);"
        "gpu_day.run_parts((part('too_slow', 60),), results_of(), Path(sys.argv[1]), 100, Path())"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=PROJECT_ROOT)
    rows = wait_for(lambda: rows_on_disk(tmp_path))
    process.terminate()
    assert process.wait(timeout=LIMIT_S) == 143
    assert rows[0]["value"] == 2
    wait_for(lambda: not is_running(rows[0]["child"]))


def rows_on_disk(folder: Path) -> list[dict[str, Any]]:
    file = folder / "gpu_day.json"
    return json.loads(file.read_text())["parts"]["too_slow"]["rows"] if file.is_file() else []


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_no_device_ends_the_day_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert gpu_day.main(["--out", str(tmp_path), "--parts", "machine,goldens"]) == 1
    found = json.loads((tmp_path / "gpu_day.json").read_text())["parts"]
    assert list(found) == ["machine"]
    assert found["machine"]["reason"] == "torch finds no CUDA device"


def test_tables_take_their_place_in_the_document(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(f"before\n\n{table.BEGIN}\n\nold\n\n{table.END}\n\nafter\n")
    found = {"status": "ok", "reason": "", "seconds": 1.0, "rows": [{"what": "a|b", "value": 12345}]}
    late = {"status": "not run", "reason": "r", "seconds": 0.0, "rows": []}
    for name, one, two in (("first", found, late), ("second", late, found)):
        parts = {"machine": one, "steps": two}
        (tmp_path / name).write_text(json.dumps(results_of("cuda", "full") | {"parts": parts}))
    words = ["--insert", str(tmp_path / "first"), str(tmp_path / "second"), "--document", str(document)]
    assert gpu_day.main(words) == 0
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "not run" not in text
    assert "| a/b | 12,345 |" in text
    assert gpu_day.main(words) == 0
    assert document.read_text() == text


def test_a_rehearsal_is_not_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.json").write_text(json.dumps(results_of()))
    with pytest.raises(SystemExit):
        gpu_day.main(["--insert", str(tmp_path / "r.json")])
    assert "a rehearsal's: not published" in capsys.readouterr().err


def test_performance_page_has_the_place() -> None:
    text = gpu_day.DOCUMENT.read_text(encoding="utf-8")
    assert "python -m benchmarks.gpu_day" in text
    assert table.inserted(text, results_of("cuda", "full"), PARTS).count(table.BEGIN) == 1


@pytest.mark.parametrize("most", [1, 2, 7, 8, 30])
@pytest.mark.parametrize("first", [1, 7, 40])
def test_most_that_fit(most: int, first: int) -> None:
    tried: list[int] = []

    def does_fit(number: int) -> bool:
        tried.append(number)
        return number <= most

    assert most_that_fit(does_fit, first) == (most, most + 1)
    assert len(tried) == len(set(tried)), "tried twice"


def test_only_full_memory_counts_as_full_memory() -> None:
    forgotten: list[int] = []
    device = torch.device("cpu")

    def fails_with(error: Exception) -> Callable[[], None]:
        def work() -> None:
            raise error

        return work

    full = [torch.OutOfMemoryError("x"), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling")]
    for error in full:
        assert not device_memory.fits(fails_with(error), lambda: forgotten.append(1), device)
    assert len(forgotten) == 2
    assert device_memory.fits(lambda: None, lambda: forgotten.append(1), device)
    assert len(forgotten) == 2
    with pytest.raises(RuntimeError, match="illegal"):
        device_memory.fits(fails_with(RuntimeError("illegal memory access")), lambda: None, device)


def event(category: str, name: str, start: float, duration: float, **arguments: Any) -> dict[str, Any]:
    return {"ph": "X", "cat": category, "name": name, "ts": start, "dur": duration, "args": arguments}


def test_traffic_of_a_trace() -> None:
    events = [
        event("kernel", "gemm", 0, 10_000),
        event("kernel", "gelu", 5_000, 10_000),  # beside the other: busy from 0 to 15 ms
        event("kernel", "late", 90_000, 5_000),
        event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 10_000, 10_000, bytes=3 * 2**20),
        event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 50_000, 10_000, bytes=2**20),
        event("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)", 80_000, 40_000, bytes=2**20),
        event("gpu_memcpy", "Memcpy DtoD (Device -> Device)", 0, 1_000, bytes=2**20),
        event("cuda_runtime", "cudaStreamSynchronize", 0, 5),
        event("cuda_runtime", "cudaLaunchKernel", 0, 5),
        event("cpu_op", "aten::_local_scalar_dense", 0, 5),
        {"ph": "f", "name": "flow"},
    ]
    on_device, to_host, to_device, rest = traffic.rows_of(events, num_times=2)
    assert to_device == {
        "copies": "to device", "memory": "pinned", "count": 1.0, "mib": 2.0, "ms": 10.0,
        "beside_kernels_percent": 25.0,
    }  # fmt: skip
    assert (to_host["memory"], to_host["beside_kernels_percent"]) == ("pageable", 12.5)
    assert (on_device["copies"], on_device["memory"]) == ("on device", "device")
    assert rest == {"host_waits": "0.5 cudaStreamSynchronize", "numbers_read": 0.5, "kernels_ms": 10.0}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_command(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu_day",
        "--out",
        str(tmp_path),
        "--device",
        "cpu",
        "--size",
        "tiny",
    ]
    environment = {
        key: value for key, value in os.environ.items() if key != "PYTHONPATH"
    }  # as on a lent machine
    done = subprocess.run(command, cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads((tmp_path / "gpu_day.json").read_text())["parts"]
    assert [*found] == [one.name for one in PARTS]
    assert all(one["status"] == "ok" and one["rows"] for one in found.values())
    assert all(row["compile"] == "blocks" for row in found["compiled"]["rows"])
