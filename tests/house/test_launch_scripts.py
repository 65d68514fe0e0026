"""Launch scripts, run with stand-ins for the cluster's commands: none of these tests needs a cluster."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from tests.conftest import PROJECT_ROOT

FOLDER = PROJECT_ROOT / "recipes" / "launch"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
SAVED_AND_STOPPED = 85

# Two tasks, each with SLURM's variables; the highest exit code is srun's own.
SRUN = r"""#!/bin/bash
echo "$1" > "$NOTES/srun_option"; shift
pids=()
for rank in 0 1; do
    SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" & pids+=($!)
done
echo "${pids[@]}" > "$NOTES/pids.partial"; mv "$NOTES/pids.partial" "$NOTES/pids"
highest=0
for pid in "${pids[@]}"; do wait "$pid"; code=$?; [ $code -gt $highest ] && highest=$code; done
exit $highest
"""
# A training process: notes who it is, then ends as the test wants; `until_told` goes on until SIGTERM.
PYTHON = r"""#!/bin/bash
echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT $*" > "$NOTES/task$RANK"
[ "$ENDING" != until_told ] && exit "$ENDING"
trap 'sleep 0.2; exit 85' TERM
touch "$NOTES/ready$RANK"
while :; do sleep 0.05; done
"""
SCONTROL = r"""#!/bin/bash
if [ "$1" = show ]; then printf 'node7\nnode8\n'; else echo "$*" >> "$NOTES/scontrol"; fi
"""
SCANCEL = r"""#!/bin/bash
echo "$*" >> "$NOTES/scancel"
kill -TERM $(cat "$NOTES/pids")
"""


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which the cluster's commands are the stand-ins above."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in (("srun", SRUN), ("python", PYTHON), ("scontrol", SCONTROL), ("scancel", SCANCEL)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "123456", "SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "node[7-8]"}
    return os.environ | slurm | {"PATH": f"{commands}:{os.environ['PATH']}", "NOTES": str(tmp_path)}


def start(cluster: dict[str, str], ending: str) -> subprocess.Popen[str]:
    command = ["bash", str(FOLDER / "slurm.sh"), "recipes/x.yaml", "optim.stages=[{memory_lr: 1.0}]"]
    return subprocess.Popen(
        command, env=cluster | {"ENDING": ending}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_there_are_scripts() -> None:
    assert {path.name for path in SCRIPTS} == {"slurm.sh", "torchrun_multinode.sh"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_read_it_and_its_header_names_it(path: Path) -> None:
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    header = [line for line in path.read_text().splitlines()[:14] if line.startswith("#")]
    assert any(f"recipes/launch/{path.name} RECIPE" in line for line in header)


def test_every_task_of_slurm_knows_its_place(cluster: dict[str, str], tmp_path: Path) -> None:
    job = start(cluster, "0")
    assert job.wait(60) == 0
    for rank in (0, 1):
        who, _, command = (tmp_path / f"task{rank}").read_text().strip().partition(" -m ")
        assert who == f"{rank} {rank} 2 node7 {10000 + 123456 % 50000}"
        assert command == "scal3r_train.train recipes/x.yaml optim.stages=[{memory_lr: 1.0}]"
    assert (tmp_path / "srun_option").read_text() == "--wait=120\n"
    assert not (tmp_path / "scontrol").exists()


def test_slurm_queues_a_saved_run_again(cluster: dict[str, str], tmp_path: Path) -> None:
    """SLURM tells the script; the tasks are told, save and end with 85."""
    job = start(cluster, "until_told")
    deadline = time.monotonic() + 60
    while not all((tmp_path / name).exists() for name in ("ready0", "ready1", "pids")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert job.wait(60) == SAVED_AND_STOPPED
    assert (tmp_path / "scancel").read_text() == "--quiet --signal=TERM 123456\n"
    assert (tmp_path / "scontrol").read_text() == "requeue 123456\n"


@pytest.mark.parametrize("code", ["1", "2"])
def test_slurm_does_not_repeat_a_failure(cluster: dict[str, str], tmp_path: Path, code: str) -> None:
    assert start(cluster, code).wait(60) == int(code)
    assert not (tmp_path / "scontrol").exists()


def test_slurm_is_asked_for_a_warning_and_a_requeue() -> None:
    options = [
        line.removeprefix("#SBATCH ")
        for line in (FOLDER / "slurm.sh").read_text().splitlines()
        if line.startswith("#SBATCH")
    ]
    assert {"--requeue", "--signal=B:TERM@120"} <= set(options)


def test_torchrun_understands_what_it_is_given(tmp_path: Path) -> None:
    """The script's own words, read by the parser of the installed torch."""
    stand_in = tmp_path / "torchrun"
    stand_in.write_text('#!/bin/bash\nprintf "%s\\n" "$TORCH_ELASTIC_SHUTDOWN_TIMEOUT" "$@"\n')
    stand_in.chmod(0o755)
    script = ["bash", FOLDER / "torchrun_multinode.sh", "recipes/x.yaml", "seed=1"]
    settings = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HEAD_NODE": "node0", "NUM_NODES": "4"}
    done = subprocess.run(script, env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    timeout, *words = done.stdout.splitlines()
    assert timeout == "120"
    arguments = get_args_parser().parse_args(words)
    assert (arguments.nnodes, arguments.nproc_per_node, arguments.max_restarts) == ("4", "8", 3)
    assert (arguments.rdzv_backend, arguments.rdzv_endpoint) == ("c10d", "node0:29500")
    assert arguments.module
    assert arguments.training_script == "scal3r_train.train"
    assert arguments.training_script_args == ["recipes/x.yaml", "seed=1"]


@pytest.mark.parametrize("missing", ["HEAD_NODE", "NUM_NODES"])
def test_torchrun_script_says_what_it_lacks(missing: str) -> None:
    settings = {name: "1" for name in ("HEAD_NODE", "NUM_NODES") if name != missing}
    clean = {name: value for name, value in os.environ.items() if name != missing}
    done = subprocess.run(
        ["bash", FOLDER / "torchrun_multinode.sh"], env=clean | settings, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert f"set {missing} to" in done.stderr
