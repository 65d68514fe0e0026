"""What one part of `benchmarks.gpu_day` is, what it is given, and where it puts its rows. No torch in here."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.sizes import Size

Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One part: measured in a process of its own, which may crash or be ended without harm to the others.

    Attributes:
        name: short, for the command line and the JSON file.
        title: what the table is called.
        function: "module:function", called with a `Day`.
        limit_s: after so many seconds the process is ended; what it had recorded stays.
        columns: key of a row -> heading.
        environment: variables of the process.
    """

    name: str
    title: str
    function: str
    limit_s: float
    columns: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Day:
    """What a part is given.

    Attributes:
        size: of networks and inputs.
        device: "cuda" or "cpu".
        goldens: a folder of recorded tensors that may not be there.
        ends_at: seconds since 1970 when the process will be ended.
        rows: what has been recorded.
    """

    size: Size
    device: str
    goldens: Path
    ends_at: float
    file: Path | None = None
    rows: list[Row] = field(default_factory=list)

    @property
    def seconds_left(self) -> float:
        """Time until this part's process is ended."""
        return self.ends_at - time.time()

    def record(self, **row: Any) -> None:
        """Keep a row: it is on the disk when this returns."""
        self.rows.append(row)
        sys.stdout.write(f"{json.dumps(row)}\n")
        sys.stdout.flush()
        if self.file is not None:
            write_json(self.file, self.rows)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that is there whole or not at all."""
    write_text(path, json.dumps(value, indent=1))


def write_text(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, path)
