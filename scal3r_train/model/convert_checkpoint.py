"""Translate the official Scal3R checkpoint and VGGT-1B into our names and back, strictly.

docs/numerics.md#released-checkpoints counts their parameters.

Only prefixes and the place of the memories differ; every tail is the published one:

    official                              ours
    agg_regator.global_blocks.{i}.ttt.    aggregator.memory_units.{i}.
    agg_regator.                          aggregator.
    cam_decoder.                          camera_head.
    dpt_decoder.                          depth_head.
    xyz_decoder.                          point_head.

VGGT-1B uses our names already, has a track head that is dropped, and no memories: these get their initial values
with a gate of zero, so that the converted model's output equals VGGT's.
"""

from __future__ import annotations

import copy
import re
import shutil
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.modeling_scal3r import Scal3RModel

CheckpointKind = Literal["official", "vggt"]

OFFICIAL_PREFIXES = {
    "agg_regator.": "aggregator.",
    "cam_decoder.": "camera_head.",
    "dpt_decoder.": "depth_head.",
    "xyz_decoder.": "point_head.",
}
OFFICIAL_MEMORY = re.compile(r"^agg_regator\.global_blocks\.(\d+)\.ttt\.(.+)$")
OUR_MEMORY = re.compile(r"^aggregator\.memory_units\.(\d+)\.(.+)$")
VGGT_DROPPED_PREFIX = "track_head."


def our_key_from_official(key: str) -> str:
    """Return our name of an official parameter.

    Raises:
        KeyError: the key has no known prefix.
    """
    memory = OFFICIAL_MEMORY.match(key)
    if memory:
        return f"aggregator.memory_units.{memory[1]}.{memory[2]}"
    for official, ours in OFFICIAL_PREFIXES.items():
        if key.startswith(official):
            return ours + key.removeprefix(official)
    raise KeyError(key)


def official_key_from_ours(key: str) -> str:
    """Return the official name of one of our parameters.

    Raises:
        KeyError: the key has no known prefix.
    """
    memory = OUR_MEMORY.match(key)
    if memory:
        return f"agg_regator.global_blocks.{memory[1]}.ttt.{memory[2]}"
    for official, ours in OFFICIAL_PREFIXES.items():
        if key.startswith(ours):
            return official + key.removeprefix(ours)
    raise KeyError(key)


def our_key_from_vggt(key: str) -> str | None:
    """Return our name of a VGGT-1B parameter, None for the track head, which Scal3R does not have.

    Raises:
        KeyError: the key has no known prefix.
    """
    if key.startswith(VGGT_DROPPED_PREFIX):
        return None
    if key.startswith(tuple(OFFICIAL_PREFIXES.values())) and not OUR_MEMORY.match(key):
        return key
    raise KeyError(key)


def checkpoint_kind(keys: Iterable[str]) -> CheckpointKind:
    """Tell which release a set of parameter names belongs to.

    Raises:
        UserError: neither.
    """
    names = list(keys)
    if any(name.startswith("agg_regator.") for name in names):
        return "official"
    if any(name.startswith("aggregator.frame_blocks.") for name in names):
        return "vggt"
    example = names[0] if names else "no tensor at all"
    raise UserError(
        f"checkpoint is neither official Scal3R nor VGGT (it holds {example}); pass one of these two"
    )


def translate(state: Mapping[str, Tensor], kind: CheckpointKind) -> dict[str, Tensor]:
    """Return the tensors of a released checkpoint under our names.

    Raises:
        UserError: a key that the release does not have.
    """
    rename = our_key_from_official if kind == "official" else our_key_from_vggt
    translated = {}
    for key, value in state.items():
        try:
            ours = rename(key)
        except KeyError:
            raise UserError(
                f"checkpoint has an unknown tensor {key!r}; expected a {kind} checkpoint"
            ) from None
        if ours is not None:
            translated[ours] = value
    return translated


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a flat dict of tensors from safetensors, or from a torch file without executing anything in it.

    Raises:
        UserError: no such file, or not a plain dict of tensors.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist; pass a .safetensors or .pt file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of foreign pickles before it refuses them
            # The format before torch 1.6 is no zip archive and cannot be mapped into memory.
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # bytes that are no checkpoint end anywhere in the two parsers
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise UserError(
            f"checkpoint {path} is not a plain tensor file ({reason}); only weights are loaded"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"checkpoint {path} must hold a flat dict of tensors; save its state_dict alone")
    return state


def build_on_meta(config: Scal3RConfig) -> Scal3RModel:
    """Return the model without storage: no time and no memory is spent on initial values."""
    with torch.device("meta"):
        return Scal3RModel(config)


def check_strict(state: Mapping[str, Tensor], model: Scal3RModel, *, may_lack_memory: bool) -> None:
    """Check that names and shapes fit the model one to one.

    Raises:
        UserError: the first missing, surplus or wrongly shaped tensor.
    """
    expected = model.state_dict()
    missing = [
        key for key in expected if key not in state and not (may_lack_memory and OUR_MEMORY.match(key))
    ]
    surplus = [key for key in state if key not in expected]
    misshaped = [key for key in state if key in expected and state[key].shape != expected[key].shape]
    for keys, problem in (
        (missing, "lacks"),
        (surplus, "has a surplus"),
        (misshaped, "has a wrong shape for"),
    ):
        if keys:
            raise UserError(
                f"checkpoint {problem} {keys[0]!r} ({len(keys)} such tensors); it does not fit the model"
            )


def convert(source: Path, config: Scal3RConfig | None = None) -> Scal3RModel:
    """Return a Scal3R with the weights of a released checkpoint.

    Args:
        source: official `scal3r.pt` or VGGT-1B weights (.safetensors, or .pt of plain tensors).
        config: sizes; the released configuration when None. For VGGT its gate is set to zero.

    Raises:
        UserError: unreadable or unfitting checkpoint.
    """
    raw = read_tensors(source)
    kind = checkpoint_kind(raw)
    state = translate(raw, kind)
    config = Scal3RConfig() if config is None else copy.deepcopy(config)
    if kind == "vggt":
        config.memory_gate_init = 0.0
    model = build_on_meta(config)
    check_strict(state, model, may_lack_memory=kind == "vggt")
    return Scal3RModel.from_pretrained(None, config=config, state_dict=state)


def main(source: str, output: str) -> int:
    """Convert `source` and write a `save_pretrained` folder, which appears only when it is complete."""
    target = Path(output)
    if target.exists():
        raise UserError(f"output {target} exists; choose another folder or remove it")
    model = convert(Path(source))
    temporary = target.with_name(target.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.save_pretrained(temporary)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return 0
