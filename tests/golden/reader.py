"""Reading recorded tensors ("goldens") and comparing recomputed ones with them.

A folder of goldens holds `manifest.json` and safetensors files. An entry of the manifest has `config` (with
its `kind`), `files` and `tolerance`. Keys of tensors: `w.*` weights, `in.*` inputs, `mid.*` intermediate
values, `out.*` outputs.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

DEFAULT_REL_RMS = 1e-5
DEFAULT_MAX_ABS_OVER_RMS = 1e-4


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the manifest's entries by name."""
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["goldens"]


@dataclass(frozen=True)
class Golden:
    """One entry of a manifest with its tensors."""

    name: str
    config: dict[str, Any]
    tolerances: dict[str, dict[str, float]]  # by key prefix: rel_rms, max_abs_over_rms
    tensors: dict[str, Tensor]
    json: Any = None  # content of the entry's JSON file, where it has one
    info: Any = None  # extra facts that some entries carry beside their settings

    @classmethod
    def load(cls, folder: Path, name: str) -> "Golden":
        """Return the entry `name` of the manifest in `folder`."""
        entry = read_manifest(folder)[name]
        tensors: dict[str, Tensor] = {}
        document = None
        for path in [folder / file["path"] for file in entry["files"]]:
            if path.suffix == ".safetensors":
                tensors |= load_file(path)
            elif path.suffix == ".json":
                document = json.loads(path.read_text(encoding="utf-8"))
        return cls(name, entry["config"], entry.get("tolerance", {}), tensors, document, entry.get("info"))

    def __getitem__(self, key: str) -> Tensor:
        return self.tensors[key]

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys that start with `prefix`."""
        return [key for key in self.tensors if key.startswith(prefix)]

    def weights(self, prefix: str = "") -> dict[str, Tensor]:
        """Return the weights of the module called `prefix` ("amu.", all by default), as its state dict."""
        start = f"w.{prefix}"
        return {key.removeprefix(start): self.tensors[key] for key in self.keys(start)}

    def tolerance(self, key: str) -> tuple[float, float]:
        """Return (rel_rms, max_abs_over_rms) allowed for `key`: those of the longest prefix given."""
        prefixes = [prefix for prefix in self.tolerances if key.startswith(prefix)]
        if not prefixes:
            return DEFAULT_REL_RMS, DEFAULT_MAX_ABS_OVER_RMS
        tolerance = self.tolerances[max(prefixes, key=len)]
        return tolerance["rel_rms"], tolerance["max_abs_over_rms"]

    def compare(self, key: str, value: Tensor) -> tuple[bool, str]:
        """Return whether `value` agrees with the recorded tensor, and a line that says how well.

        rel_rms = rms(difference) / rms(recorded), max_abs_over_rms = max |difference| / rms(recorded), both
        over the finite entries. NaN and infinities must be in the same places; axes of length one do not
        count.
        """
        distance = self._distance(key, value)
        if isinstance(distance, str):
            return False, f"{key}: {distance}"
        (rel_rms, max_abs_over_rms), (allowed_rms, allowed_max) = distance, self.tolerance(key)
        ok = rel_rms <= allowed_rms and max_abs_over_rms <= allowed_max
        return ok, (
            f"{key}: rel_rms {rel_rms:.2e} (allowed {allowed_rms:.1e}), "
            f"max_abs_over_rms {max_abs_over_rms:.2e} (allowed {allowed_max:.1e})"
        )

    def excess(self, key: str, value: Tensor) -> float:
        """Return how far `value` lies from the recorded tensor in units of what is allowed: up to 1 it agrees.

        Infinite where `compare` finds another shape, or NaN and infinities at other places.
        """
        distance = self._distance(key, value)
        if isinstance(distance, str):
            return math.inf
        return max(
            found / max(allowed, 1e-30) for found, allowed in zip(distance, self.tolerance(key), strict=True)
        )

    def _distance(self, key: str, value: Tensor) -> tuple[float, float] | str:
        """Return rel_rms and max_abs_over_rms, or why the two cannot be compared."""
        expected = self.tensors[key]
        if _shape_without_ones(value) != _shape_without_ones(expected):
            return f"shape {tuple(value.shape)}, recorded {tuple(expected.shape)}"
        wanted = expected.double().flatten()
        got = torch.as_tensor(value).detach().cpu().double().flatten()
        finite = torch.isfinite(wanted)
        if not torch.equal(finite, torch.isfinite(got)) or not _equal_or_both_nan(
            got[~finite], wanted[~finite]
        ):
            return "NaN or infinity at other places than recorded"
        difference, scale = (got - wanted)[finite], _rms(wanted[finite]).clamp_min(1e-30)
        rel_rms = float(_rms(difference) / scale)
        max_abs_over_rms = float(difference.abs().max() / scale) if difference.numel() else 0.0
        return rel_rms, max_abs_over_rms


def _rms(values: Tensor) -> Tensor:
    """Return the root mean square of all values; 0 for none."""
    return values.square().mean().sqrt() if values.numel() else values.new_zeros(())


def _equal_or_both_nan(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors of infinities and NaN hold the same ones."""
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def _shape_without_ones(value: Tensor) -> tuple[int, ...]:
    """Return the shape of a tensor without its axes of length one."""
    return tuple(length for length in value.shape if length != 1)
