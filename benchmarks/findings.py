"""What a benchmark found, for a program to read: `--json FILE` of the benchmarks that compare things side by side.

Ratios only, since they mean the same on another machine. Each is the worse the larger it is.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Findings:
    """Ratios by name.

    Attributes:
        time: of times, which a busy machine blurs.
        bytes: of bytes, which come out the same every time.
    """

    time: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, float] = field(default_factory=dict)

    def save(self, file: Path | None) -> None:
        """Write the ratios to a file; None: nowhere."""
        if file is not None:
            file.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def load(file: Path) -> Findings:
        """Read what `save` has written; other keys are left aside."""
        found = json.loads(file.read_text(encoding="utf-8"))
        return Findings(found["time"], found["bytes"])


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark take `--json FILE`, which becomes `json`."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the ratios here")
