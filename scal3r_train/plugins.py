"""What other installed packages add, by the names of their entry points (docs/extending/README.md).

A recipe or a configuration can only name what is installed: nothing is imported from the folder it lies in. What comes
with this package is looked up first and is never replaced, so that no installed package changes what a shipped
recipe means.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from scal3r_train.config import UserError
from scal3r_train.refusal import likely_meant

Added = TypeVar("Added")


@dataclass(frozen=True)
class PluginGroup:
    """A kind of part that packages can add.

    Attributes:
        entry_points: name of the group in a package's metadata.
        noun: what one is called in messages.
        page: where it is explained.
    """

    entry_points: str
    noun: str
    page: str


LOSSES = PluginGroup("scal3r.losses", "loss", "docs/extending/loss.md")
PATCH_ENCODERS = PluginGroup("scal3r.patch_encoders", "patch encoder", "docs/extending/patch_encoder.md")
ADAPTERS = PluginGroup("scal3r.adapters", "dataset", "docs/extending/dataset.md")
METRICS = PluginGroup("scal3r.metrics", "metric", "docs/extending/metric.md")


def plugin_names(group: PluginGroup) -> list[str]:
    """Return the names that installed packages add to a group, sorted; nothing of theirs is imported."""
    return sorted({entry.name for entry in entry_points(group=group.entry_points)})


def load_plugin(group: PluginGroup, name: str, kind: type[Added], known: Iterable[str] = ()) -> Added:
    """Return the part of that name, imported now.

    Args:
        group: what it is.
        name: of its entry point.
        kind: the class that it must be an instance of.
        known: names that come with this package, for the message.

    Raises:
        UserError: no package or more than one adds the name, it cannot be imported, or it is something else.
    """
    entry = _only_entry(group, name, known)
    where = f"{group.noun} '{name}' of the package {package_of(entry)}"
    try:
        added = entry.load()
    except Exception as error:  # a stranger's module can raise anything while it is imported
        reason = " ".join(str(error).split())
        raise UserError(
            f"{where} cannot be imported: {type(error).__name__}: {reason}; mend or uninstall it"
        ) from error
    if not isinstance(added, kind):
        raise UserError(
            f"{where}: {entry.value} is a {type(added).__name__}, not a {kind.__name__}; see {group.page}"
        )
    return added


def plugin_version(group: PluginGroup, name: str) -> str:
    """Return the package, with its version, that adds a name. Raises UserError as `load_plugin` does."""
    return package_of(_only_entry(group, name, ()))


def package_of(entry: EntryPoint) -> str:
    """Return name and version of the package that an entry point belongs to."""
    return "?" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


def _only_entry(group: PluginGroup, name: str, known: Iterable[str]) -> EntryPoint:
    # A package that lies on the path twice, as editable installs may, is still one package.
    found = {
        (package_of(entry), entry.value): entry
        for entry in entry_points(group=group.entry_points)
        if entry.name == name
    }
    if not found:
        all_known = sorted({*known, *plugin_names(group)})
        meant = " or ".join(likely_meant(name, all_known))
        raise UserError(
            f"{group.noun} '{name}' is unknown; {f'did you mean {meant}? ' if meant else ''}known are "
            f"{', '.join(all_known) or 'none'}; a package adds one by an entry point in "
            f"{group.entry_points} ({group.page})"
        )
    if len(found) > 1:
        packages = " and ".join(sorted(package for package, _ in found))
        raise UserError(f"{group.noun} '{name}' is added by {packages}; uninstall one of them")
    return next(iter(found.values()))
