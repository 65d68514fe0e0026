"""Wrong inputs of every kind that is read: each is read by a child process with limits, and what came of it is counted.

    nice python -m benchmarks.fuzz [--group recipes|files] [--kind KIND ..] [--count 1000] [--seed 0] [--keep FOLDER]

The parent imports everything once and forks for each input, so that some ten are tried in a second on one core. Inputs
are drawn by hypothesis from right ones (benchmarks/fuzzing): the same seed and count draw the same. Refused well is
what ends in one line on stderr that names the file, and exit code 2; an input that is still right, or was left so, is
accepted. All else is a finding: a traceback, a hang (beyond 20 s of processor time), a death by signal, another exit
code or number of lines, more than 1 GiB of memory, a line that names neither file nor folder. Findings are kept in
FOLDER, each with what was said. Exit code 1 if there are any.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks.fuzzing.kinds import KINDS, Kind
from benchmarks.fuzzing.trial import FAULTS, Limits, Outcome, run_trial
from scal3r_train.config import run_command


@dataclass
class Tally:
    """What came of the inputs of a kind.

    Attributes:
        verdicts: how many of each.
        memory_mib: the most that any of them took.
        cpu_s: the most processor time.
        findings: a line each.
    """

    verdicts: Counter[str] = field(default_factory=Counter)
    memory_mib: float = 0.0
    cpu_s: float = 0.0
    findings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Original:
    """A right input.

    Attributes:
        root: folder that is read as a whole.
        path: of the file in it that is edited.
    """

    root: Path
    path: Path


def originals_of(kind: Kind, folder: Path) -> list[Original]:
    """Write the right inputs of a kind, in a child so that no library's threads stay with the parent, and list them."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            kind.write(folder)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    if os.waitpid(pid, 0)[1] != 0:
        raise SystemExit(f"the right inputs of '{kind.name}' could not be written")
    roots = [folder] if kind.roots is None else kind.roots(folder)
    found = [Original(root, path) for root in roots for path in sorted(root.rglob("*")) if path.is_file()]
    return [original for original in found if kind.is_edited(original.path)]


def tried(kind: Kind, original: Original, content: bytes | None, limits: Limits, work: Path) -> Outcome:
    """Return what comes of an input whose file holds `content`; None: as it is."""
    shutil.rmtree(work, ignore_errors=True)
    root = work / original.root.name
    shutil.copytree(original.root, root, copy_function=os.link)
    path = root / original.path.relative_to(original.root)
    if content is not None:
        path.unlink()
        path.write_bytes(content)
    own = [part for part in path.relative_to(work).parts if part]
    named = (*own, *kind.roles) if kind.names_file else ()
    return run_trial(lambda: run_command(lambda: kind.read(root, path)), work, limits, named, kind.codes)


def fuzz(kind: Kind, count: int, number: int, limits: Limits, keep: Path | None) -> Tally:
    """Try `count` inputs of a kind, drawn with seed `number`, after the right ones."""
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="fuzz_") as place:
        (Path(place) / "right").mkdir()
        found = originals_of(kind, Path(place) / "right")
        data = {original: original.path.read_bytes() for original in found}
        work = Path(place) / "work"

        def look(original: Original, content: bytes | None) -> None:
            outcome = tried(kind, original, content, limits, work)
            tally.verdicts[outcome.verdict] += 1
            tally.memory_mib = max(tally.memory_mib, outcome.memory_mib)
            tally.cpu_s = max(tally.cpu_s, outcome.cpu_s)
            is_changed = content is not None or original.path.name.startswith("wrong_")
            if outcome.verdict in FAULTS or not (is_changed or outcome.verdict == "accepted"):
                name = original.path.relative_to(Path(place) / "right")
                tally.findings.append(f"{outcome.verdict}: {name}: {outcome.line[:300]}")
                sys.stderr.write(f"{kind.name}: {tally.findings[-1]}\n")
                if keep is not None:
                    _keep(keep, kind, original, content, outcome, len(tally.findings))

        for original in _right_ones(kind, found):
            look(original, None)

        @seed(number)
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(
            st.sampled_from(found).flatmap(
                lambda original: st.tuples(
                    st.just(original), kind.content(original.path.name, data[original])
                )
            )
        )
        def draw(drawn: tuple[Original, bytes]) -> None:
            look(*drawn)

        draw()
    return tally


def _right_ones(kind: Kind, found: list[Original]) -> list[Original]:
    """Inputs that are tried as they are: of a folder that is read as a whole, one."""
    if not kind.tries_right:
        return []
    return found if kind.roots is None else list({original.root: original for original in found}.values())


def _keep(
    keep: Path, kind: Kind, original: Original, content: bytes | None, outcome: Outcome, number: int
) -> None:
    folder = keep / kind.name.replace(" ", "_") / f"{number:04d}_{outcome.verdict.replace(' ', '_')}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / original.path.name).write_bytes(original.path.read_bytes() if content is None else content)
    said = {
        "verdict": outcome.verdict,
        "line": outcome.line,
        "memory_mib": outcome.memory_mib,
        "cpu_s": outcome.cpu_s,
    }
    (folder / "outcome.json").write_text(json.dumps(said, indent=1) + "\n")
    (folder / "stderr").write_text(outcome.stderr[-20_000:])


def table(tallies: dict[str, Tally]) -> str:
    """Return what came of all kinds, as a table."""
    lines = [
        "| kind | tried | refused well | accepted | tracebacks | hangs | crashes | wrong exits | unnamed | too large "
        "| most memory [MiB] | most time [s] |",
        "| --- |" + " --- |" * 11,
    ]
    for name, tally in tallies.items():
        lines.append(row(name, tally))
    return "\n".join(lines)


def row(name: str, tally: Tally) -> str:
    """Return what came of one kind, as a row of the table."""
    counts = [tally.verdicts[verdict] for verdict in ("refused", "accepted", *FAULTS)]
    cells = [name, sum(tally.verdicts.values()), *counts, f"{tally.memory_mib:.0f}", f"{tally.cpu_s:.1f}"]
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> int:
    """Run from the command line; return 1 if there are findings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--group", choices=("recipes", "files"), help="only kinds of this group")
    parser.add_argument("--kind", nargs="+", choices=[kind.name for kind in KINDS], help="only these kinds")
    parser.add_argument(
        "--count", type=int, default=1000, help="inputs of each group, or of each kind with --kind"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for inputs that were not refused well")
    given_ = parser.parse_args()
    warnings.simplefilter("ignore")
    chosen = [
        kind
        for kind in KINDS
        if (given_.kind is None or kind.name in given_.kind) and given_.group in (None, kind.group)
    ]
    gc.collect()
    gc.freeze()
    tallies = {}
    for kind in chosen:
        total = sum(other.weight for other in KINDS if other.group == kind.group)
        count = given_.count if given_.kind else max(1, round(given_.count * kind.weight / total))
        tallies[kind.name] = fuzz(kind, count, given_.seed, Limits(), given_.keep)
        sys.stderr.write(f"{row(kind.name, tallies[kind.name])}\n")
    whole = Tally(
        sum((tally.verdicts for tally in tallies.values()), Counter()),
        max(tally.memory_mib for tally in tallies.values()),
        max(tally.cpu_s for tally in tallies.values()),
    )
    num_findings = sum(len(tally.findings) for tally in tallies.values())
    sys.stdout.write(f"seed {given_.seed}\n{table(tallies | {'all': whole})}\n{num_findings} findings\n")
    return 1 if num_findings else 0


if __name__ == "__main__":
    sys.exit(main())
