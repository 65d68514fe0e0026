"""One of two processes that end together; forked by test_failure_propagation.py.

python failing_worker.py SCENARIO, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time

import torch
import torch.distributed as dist

from scal3r_train.config import UserError, run_command
from scal3r_train.parallel import heartbeat
from scal3r_train.parallel.failure_propagation import failing_together

RANK = int(os.environ["RANK"])


def fail(scenario: str) -> None:
    """Let rank 1 end."""
    if scenario == "early_mistake":
        raise UserError("the mistake of one")
    if scenario in ("bug", "bug_while_other_sleeps"):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,))
        child.start()
        print(f"child {child.pid}", flush=True)
        raise ZeroDivisionError("the bug of one")
    if scenario == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


def main(scenario: str) -> int:
    """Join, fail on rank 1, wait on rank 0."""
    with failing_together():
        if scenario == "early_mistake" and RANK == 1:
            fail(scenario)
        dist.init_process_group("gloo")
        dist.all_reduce(torch.ones(1))
        if scenario == "fine":
            dist.destroy_process_group()
            return 0
        if RANK == 1:
            fail(scenario)
        if scenario == "bug_while_other_sleeps":
            time.sleep(3600)
        dist.all_reduce(torch.ones(1))
    return 0


if __name__ == "__main__":
    heartbeat.GRACE_S = 2.0 if sys.argv[1] == "bug_while_other_sleeps" else heartbeat.GRACE_S
    sys.exit(run_command(lambda: main(sys.argv[1])))
