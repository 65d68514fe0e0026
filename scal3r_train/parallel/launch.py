"""What the launcher asked for: the engine, and its settings where the launcher has any.

`accelerate launch --config_file recipes/accelerate/X.yaml` states its choice in environment variables, which
Accelerate's own plugins read back. torchrun says nothing; a recipe may then name the engine (`parallel.engine`).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import psutil
from accelerate.commands.config.config_args import default_config_file, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DeepSpeedPlugin

from scal3r_train.config import UserError
from scal3r_train.parallel.process import is_launched
from scal3r_train.parallel.settings import EngineName
from scal3r_train.text_file import parse_json

# What an accelerate config may ask of FSDP and this project does otherwise.
REFUSED_FSDP = {
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "it would load weights on rank 0 alone",
    "FSDP_OFFLOAD_PARAMS": "to keep parameters on the host use recipes/accelerate/zero3_offload.yaml",
    "FSDP_ACTIVATION_CHECKPOINTING": "the recipe's model section says what is recomputed",
}

# `accelerate launch`, `accelerate-launch`, `python -m accelerate.commands.launch`
LAUNCH_COMMAND = re.compile(
    r"(^launch|accelerate-launch|accelerate\.commands\.launch|accelerate/commands/launch\.py)$"
)

# Sections of a DeepSpeed configuration that say what the recipe says: which key of the recipe it is.
DECIDED_BY_RECIPE = {
    "optimizer": "optim",
    "scheduler": "optim",
    "bf16": "parallel.precision",
    "fp16": "parallel.precision",
    "amp": "parallel.precision",
    "torch_autocast": "parallel.precision",
    "data_types": "parallel.precision",
    "gradient_clipping": "optim.clip_norm",
    "gradient_accumulation_steps": "optim.accumulation_steps",
    "train_batch_size": "curriculum",
    "train_micro_batch_size_per_gpu": "curriculum",
    "activation_checkpointing": "model.activation_checkpointing",
    "curriculum_learning": "curriculum",
    "data_efficiency": "curriculum",
}


def launched_engine() -> EngineName | None:
    """Return the sharding engine that `accelerate launch` set up; None when the launcher left it open.

    Raises:
        UserError: the configuration asks for something that this project does not run under.
    """
    _refuse_launcher_precision()
    _refuse_lonely_process()
    if _is_set("ACCELERATE_USE_DEEPSPEED"):
        return _zero_engine(launched_zero_config())
    if _is_set("ACCELERATE_USE_FSDP"):
        if os.environ.get("FSDP_VERSION", "1") != "2":
            raise UserError("FSDP version 1 is not supported: set fsdp_version: 2 in the accelerate config")
        for variable, instead in REFUSED_FSDP.items():
            if _is_set(variable):
                raise UserError(f"{variable.lower()} in the accelerate config: set it to false; {instead}")
        return "fsdp2"
    return None


def launched_zero_config() -> dict[str, Any]:
    """Return the DeepSpeed configuration of the accelerate config file, without what it leaves open (`auto`).

    Raises:
        UserError: its `deepspeed_config_file` cannot be read, or has a section that the recipe decides.
    """
    path = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    config = _read_zero_config(Path(path)) if path else DeepSpeedPlugin().deepspeed_config
    where = path or "deepspeed_config in the accelerate config"
    for section, key in DECIDED_BY_RECIPE.items():
        if not _leaves_open(config.get(section, "auto")):
            raise UserError(
                f'{where}: {section} is the recipe\'s to decide ({key}): remove it or make it "auto"'
            )
    config = {key: value for key, value in config.items() if key not in DECIDED_BY_RECIPE and value != "auto"}
    zero = config["zero_optimization"]
    return config | {"zero_optimization": {key: value for key, value in zero.items() if value != "auto"}}


def _read_zero_config(path: Path) -> dict[str, Any]:
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"deepspeed_config_file {path} cannot be read: {error}") from None
    if not isinstance(config, dict) or not isinstance(config.get("zero_optimization"), dict):
        raise UserError(
            f"deepspeed_config_file {path} has no zero_optimization section; give it one with a stage"
        )
    return config


def _leaves_open(value: Any) -> bool:
    """Return whether a section of a DeepSpeed configuration says nothing, or that something is off."""
    if isinstance(value, dict):
        return _leaves_open(value.get("enabled", "given"))
    return value in ("auto", False, None)


def _zero_engine(config: dict[str, Any]) -> EngineName:
    zero = config["zero_optimization"]
    stage = zero.get("stage")
    devices = {
        key: (zero.get(key) or {}).get("device") or "none" for key in ("offload_optimizer", "offload_param")
    }
    for key, device in devices.items():
        if device not in ("none", "cpu"):
            raise UserError(f"DeepSpeed's {key} to {device} is not supported: its device can be cpu or none")
    offloads = [key for key, device in devices.items() if device == "cpu"]
    if stage == 3:
        return "zero3_offload" if offloads else "zero3"
    if stage in (1, 2) and not offloads:
        return "zero1" if stage == 1 else "zero2"
    raise UserError(
        f"ZeRO stage {stage}{' with ' + ' and '.join(offloads) if offloads else ''} is not supported; use one of "
        "recipes/accelerate/zero1.yaml, zero2.yaml, zero3.yaml, zero3_offload.yaml"
    )


def _refuse_launcher_precision() -> None:
    """Precision is the recipe's: what a launcher's config says must not contradict it in silence."""
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", ""):
        raise UserError(
            f"mixed_precision: {precision} in the accelerate config has no effect here: set it to 'no' and choose "
            "parallel.precision in the recipe"
        )


def _refuse_lonely_process() -> None:
    """Accelerate starts one process where a configuration of several CPU processes finds no MPI, without a word.

    That process learns nothing of the others: what was asked for is in the command line of the launcher, its parent.
    """
    if is_launched() or not _is_set("ACCELERATE_USE_CPU"):
        return
    asked = _processes_asked_for(psutil.Process(os.getppid()).cmdline())
    if asked > 1:
        raise UserError(
            f"accelerate launch was asked for {asked} CPU processes and started one, as it does for MULTI_CPU without "
            f"MPI: use torchrun --nproc-per-node {asked} -m scal3r_train.train, or distributed_type: MULTI_GPU, "
            "which starts them on CPUs too"
        )


def _processes_asked_for(command: list[str]) -> int:
    """Return the number of processes of an `accelerate launch` command line; 1 for any other."""
    places = [place for place, word in enumerate(command) if LAUNCH_COMMAND.search(word)]
    if not places:
        return 1
    arguments, _ = launch_command_parser().parse_known_args(command[places[0] + 1 :])
    if arguments.num_processes is not None:
        return int(arguments.num_processes)
    file = arguments.config_file or (default_config_file if Path(default_config_file).is_file() else None)
    return 1 if file is None else int(load_config_from_file(file).num_processes or 1)


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("1", "true", "yes")
