"""Where the circuits of a source are, how each is read, and whose works they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scal3r_data_tools.preparing.circuits import karts, torcs
from scal3r_data_tools.preparing.circuits.licences import Licence, debian_licence, joined, readme_licence
from scal3r_data_tools.preparing.circuits.route import Route
from scal3r_data_tools.preparing.circuits.world import World
from scal3r_train.config import UserError

PACKAGED_TORCS = Path("usr/share/games/torcs")
TORCS_COPYRIGHT = Path("usr/share/doc/torcs-data/copyright")
PACKAGED_KARTS = Path("usr/share/games/supertuxkart/data")
KART_COPYRIGHT = Path("usr/share/doc/supertuxkart-data/copyright")


@dataclass(frozen=True)
class Circuit:
    """One circuit: its name, game, folder, the folder of the game's data, and the source that holds both."""

    name: str
    game: str
    folder: Path
    root: Path
    source: Path

    def load(self) -> tuple[World, Route]:
        """Read its world and the line round it. Raises UserError for what is missing or damaged."""
        return LOADERS[self.game](self.folder, self.root)

    def licence(self, world: World) -> Licence:
        """Under which terms, and by whom, the files are that went into its world."""
        if self.game == "SuperTuxKart":
            return debian_licence(self.source / KART_COPYRIGHT, self.root.parent, world.files)
        own = readme_licence(self.folder / "readme.txt")
        shared = [file for file in world.files if not file.is_relative_to(self.folder)]
        if not shared:
            return own
        return joined([own, debian_licence(self.source / TORCS_COPYRIGHT, self.root, shared)])


LOADERS: dict[str, Callable[[Path, Path], tuple[World, Route]]] = {
    "TORCS": torcs.load_circuit,
    "SuperTuxKart": karts.load_circuit,
}


def find_circuits(source: Path) -> list[Circuit]:
    """All circuits of a source, TORCS' first: packages unpacked with dpkg -x, one or both, or a game's data folder.

    Raises UserError when there is none.
    """
    found = []
    for root in (source, source / PACKAGED_TORCS):
        found += [Circuit(f.name, "TORCS", f, root, source) for f in torcs.find_tracks(root)]
    for root in (source, source / PACKAGED_KARTS):
        found += [
            Circuit(f"kart-{f.name.replace('_', '-')}", "SuperTuxKart", f, root, source)
            for f in karts.find_tracks(root)
        ]
    if not found:
        raise UserError(
            f"{source} holds no circuit; unpack the package: apt-get download torcs-data && dpkg -x torcs-data*.deb SRC"
        )
    return found
