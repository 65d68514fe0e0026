"""Record the runs that `pytest -m recorded` makes again, from a clean tree and in a commit of their own.

    python -m tests.golden.record                        # all
    python -m tests.golden.record train_cpu reconstruct  # these
    python -m tests.golden.record --check                # make them again, compare, write nothing

Exit code 0: done, or nothing differs; 1: something differs; 2: the tree is not clean, or there is no such run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import PROJECT_ROOT
from tests.golden.recorded_runs import Run, all_runs, make_workspace
from tests.golden.recording import Recording, this_machine

EXIT_DIFFERENT, EXIT_USER_ERROR = 1, 2


def main(words: Sequence[str], repository: Path = PROJECT_ROOT) -> int:
    """Record or check the named runs; without names, all."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.golden.record", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="RUN", help=f"of {', '.join(all_runs())}")
    parser.add_argument("--check", action="store_true", help="compare with the recordings and write nothing")
    arguments = parser.parse_args(words)
    runs = all_runs()
    unknown = [name for name in arguments.names if name not in runs]
    if unknown:
        return complain(f"no run is called {unknown[0]}; there are {', '.join(runs)}")
    if not arguments.check and git(repository, "status", "--porcelain"):
        return complain(
            "the git tree has changes, and a recording must name its code: commit or stash them first"
        )
    commit = git(repository, "rev-parse", "HEAD")
    chosen = [runs[name] for name in arguments.names or runs]
    with tempfile.TemporaryDirectory() as folder:
        workspace = make_workspace(Path(folder))
        different = [
            check(run, workspace) if arguments.check else record(run, workspace, commit) for run in chosen
        ]
    return EXIT_DIFFERENT if any(different) else 0


def record(run: Run, workspace: Path, commit: str) -> bool:
    """Make a run and write its recording; nothing differs from it."""
    started = time.perf_counter()
    path = Recording(run.name, commit, this_machine(), run.make(workspace=workspace)).save()
    print(f"{path.relative_to(PROJECT_ROOT)}: {time.perf_counter() - started:.0f} s", flush=True)
    return False


def check(run: Run, workspace: Path) -> bool:
    """Make a run again; print and return whether it differs from its recording."""
    lines = Recording.load(run.name).differences(run.make(workspace=workspace), this_machine())
    print("\n".join(lines or [f"{run.name}: as recorded"]), flush=True)
    return bool(lines)


def git(repository: Path, *words: str) -> str:
    """Return what a git command prints."""
    return subprocess.check_output(["git", "-C", repository, *words], text=True).strip()


def complain(line: str) -> int:
    """Say in one line what is wrong, and return the exit code for that."""
    print(f"record: error: {line}", file=sys.stderr)
    return EXIT_USER_ERROR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
