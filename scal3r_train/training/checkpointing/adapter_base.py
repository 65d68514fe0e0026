"""The checkpoint that a run's adapters belong to. Recipes import this along, so it imports no model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from scal3r_train.config import UserError


@dataclass(frozen=True)
class Base:
    """The checkpoint that adapters belong to.

    Attributes:
        checkpoint: as the recipe names it.
        sha256: of its configuration and weights.
    """

    checkpoint: str
    sha256: str


def refuse_other_base(base: Base | None, saved: Base | None, path: Path) -> None:
    """Raise UserError unless a checkpoint is of the run's own base, or neither has one."""
    if (saved is None) != (base is None):
        holds, lacks = ("adapters", "no") if base is None else ("a whole model", "a")
        raise UserError(
            f"checkpoint {path} holds {holds} and the recipe has {lacks} model.lora section; name another output_dir"
        )
    if base is not None and saved is not None and saved.sha256 != base.sha256:
        raise UserError(
            f"checkpoint {path} holds adapters of {saved.checkpoint} with SHA-256 {saved.sha256[:12]}..., "
            f"and model.checkpoint {base.checkpoint} has {base.sha256[:12]}...; name the same weights, or another "
            "output_dir"
        )


def manifest_entry(base: Base | None) -> dict[str, str] | None:
    """Return what a manifest says of the base."""
    return None if base is None else asdict(base)
