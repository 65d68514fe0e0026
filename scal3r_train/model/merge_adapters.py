"""Trained adapters added to the matrices of their base: a plain model, which knows nothing of adapters.

A folder of adapters is peft's: `adapter_config.json`, and `adapter_model.safetensors` with A and B of every adapted
layer. Beside them it holds whatever else was trained, memories and heads, whole, and in its header the SHA-256 of the
base that all of it belongs to.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open
from torch import Tensor

from scal3r_train.config import UserError, permit_as_new
from scal3r_train.model.load_model import load_config
from scal3r_train.model.lora import A_PART, B_PART
from scal3r_train.model.weight_files import (
    ADAPTER_CONFIG_NAME,
    checkpoint_folder,
    folder_sha256,
    weight_files,
)
from scal3r_train.text_file import parse_json

WEIGHTS_NAME = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
BASE_SHA256 = "base_sha256"
ARCHITECTURE = "Scal3RModel"
# Through which peft's AutoPeftModel finds the class of the base, if it is told to import from there.
AUTO_MAPPING = {"base_model_class": ARCHITECTURE, "parent_library": "scal3r_train"}
STORED_A, STORED_B = ".lora_A.", ".lora_B."  # peft leaves the adapter's name out


def stored_name(name: str) -> str:
    """Return what peft calls a trained parameter in a file."""
    return PEFT_PREFIX + name.replace(A_PART, STORED_A).replace(B_PART, STORED_B)


def is_adapter_folder(folder: Path) -> bool:
    """Return whether a folder holds adapters."""
    return (folder / ADAPTER_CONFIG_NAME).is_file()


def merge_adapters(folder: Path, output: Path, base: Path | None = None, max_shard_size: str = "5GB") -> None:
    """Write the base with its adapters added, W + alpha / rank B A, as a folder that `from_pretrained` reads.

    Args:
        folder: of adapters.
        output: to write, must not exist.
        base: the base's folder; None: the one that the adapters name.
        max_shard_size: as "5GB"; larger weights go into several files and an index.

    Raises:
        UserError: a file is missing or damaged, or the base is not the one that the adapters were trained on.
    """
    config, (trained, base_sha256) = _read_config(folder), _read_trained(folder)
    base = _checked_base(folder, config, base, base_sha256)
    factor = float(config["lora_alpha"]) / int(config["r"])
    state: dict[str, Tensor] = {}
    for path in weight_files(base):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                state[name] = _merged(name, file.get_tensor(name), trained, factor)
    if trained:
        raise UserError(
            f"adapters {folder} do not fit their base {base}: it has no {min(trained)}; they are damaged or of another "
            "version"
        )
    written = load_config(base)
    written.architectures = [ARCHITECTURE]
    written.save_pretrained(output)
    save_torch_state_dict(state, output, max_shard_size=max_shard_size, metadata={"format": "pt"})
    permit_as_new(*output.glob("*.safetensors"))


def main(source: Path, output: Path, base: Path | None) -> int:
    """Merge a folder of adapters into a new folder, which appears only when it is complete."""
    if output.exists():
        raise UserError(f"output {output} exists; choose another folder or remove it")
    temporary = output.with_name(output.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        merge_adapters(source, temporary, base)
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return 0


def _merged(name: str, value: Tensor, trained: dict[str, Tensor], factor: float) -> Tensor:
    """Return a tensor of the merged model and take what it is made of out of `trained`."""
    replaced = trained.pop(name, None)
    if replaced is not None:
        return replaced
    layer = name.removesuffix(".weight")
    a, b = (trained.pop(f"{layer}{part}weight", None) for part in (STORED_A, STORED_B))
    if a is None or b is None:
        return value
    return value.float() + factor * (b.float() @ a.float())


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / ADAPTER_CONFIG_NAME
    try:
        config: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
        if config["peft_type"] != "LORA" or not config["r"] > 0 or not config["lora_alpha"] > 0:
            raise ValueError("no LoRA with a rank and an alpha")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be used: {error}; copy the folder again") from None
    special = [key for key in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern") if config.get(key)]
    if special:
        raise UserError(f"{path} has {special[0]}, which is not merged here; merge it with peft")
    return config


def _read_trained(folder: Path) -> tuple[dict[str, Tensor], str]:
    """Return the tensors by the base's names, and the hash of the base, empty when it is not noted."""
    path = folder / WEIGHTS_NAME
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key.removeprefix(PEFT_PREFIX): file.get_tensor(key) for key in file.keys()}
            return tensors, (file.metadata() or {}).get(BASE_SHA256, "")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}; copy the folder again") from None


def _checked_base(folder: Path, config: dict[str, Any], base: Path | None, sha256: str) -> Path:
    """Return the base's folder if it is what the adapters were trained on."""
    named = Path(str(config.get("base_model_name_or_path") or ""))
    try:
        base = checkpoint_folder(base or named)
    except UserError as error:
        raise UserError(f"base of adapters {folder}: {error}; --base FOLDER names it") from None
    found = folder_sha256(base)
    if sha256 and found != sha256:
        raise UserError(
            f"adapters {folder} belong to a base with SHA-256 {sha256[:12]}..., and {base} has {found[:12]}...; "
            "--base FOLDER names another"
        )
    return base
