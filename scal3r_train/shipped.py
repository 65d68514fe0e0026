"""What comes with the package beside code: recipes, launch files, a small checkpoint, a clip; found by name anywhere.

They lie in `recipes/` and `assets/`: at the top of a checkout, inside the package once it is installed. Imports nothing
of this project.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
RECIPES, ASSETS = "recipes", "assets"
RECIPE_SUFFIX = ".yaml"
LAUNCH_FOLDERS = ("accelerate", "launch")


def shipped_folder(name: str) -> Path:
    """Return where the files of `recipes` or `assets` lie, in an installation or in a checkout."""
    installed = PACKAGE / name
    return installed if installed.is_dir() else PACKAGE.parent / name


def find_recipe(given: str | Path) -> Path:
    """Return the file that a recipe is called by: a path if there is such a file, else that of a shipped one by name.

    What is neither comes back as it is.
    """
    path = Path(given)
    return path if path.is_file() else shipped_recipe(given) or path


def shipped_recipe(name: str | Path) -> Path | None:
    """Return the file of a shipped recipe, None without one of this name.

    `debug/cpu`, `debug/cpu.yaml` and `recipes/debug/cpu.yaml` name the same file, and so does `cpu` as long as no other
    recipe is called so.
    """
    path = _shipped(name, RECIPES)
    choices = [] if path is None else [path, path.with_name(path.name + RECIPE_SUFFIX)]
    found = next((choice for choice in choices if choice.is_file()), None)
    if found is None and len(Path(name).parts) == 1:
        wanted = f"{str(name).removesuffix(RECIPE_SUFFIX)}{RECIPE_SUFFIX}"
        alike = [file for file in shipped_folder(RECIPES).rglob(f"*{RECIPE_SUFFIX}") if file.name == wanted]
        return alike[0] if len(alike) == 1 else None
    return found


def find_checkpoint(given: str | Path) -> Path:
    """Return the folder of a checkpoint: a path if there is one, else a shipped one by name, as `scal3r-tiny`.

    What is neither comes back as it is.
    """
    return _find_asset(given)


def find_clip(given: str | Path) -> Path:
    """Return the folder of images: a path if there is one, else a shipped clip by name, as `clips/circuit`.

    What is neither comes back as it is.
    """
    return _find_asset(given)


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes and of the files that start them, sorted; recipes without suffix."""
    return sorted(_names(shipped_folder(RECIPES)))


def first_comment(path: Path) -> str:
    """Return the first line of a file's opening comment, without its mark; empty when it has none."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#!"):
            continue
        return line.removeprefix("#").strip() if line.startswith("#") else ""
    return ""


def _find_asset(given: str | Path) -> Path:
    path, shipped = Path(given), _shipped(given, ASSETS)
    return shipped if shipped is not None and shipped.is_dir() and not path.exists() else path


def _names(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if name.parts[0] in LAUNCH_FOLDERS and path.is_file():
            yield name.as_posix()
        elif path.suffix == RECIPE_SUFFIX:
            yield name.with_suffix("").as_posix()


def _shipped(name: str | Path, kind: str) -> Path | None:
    """Return where something of this name would lie; None for what is no name."""
    path = Path(name)
    parts = path.parts[1:] if path.parts[:1] == (kind,) else path.parts
    return None if path.is_absolute() or ".." in parts or not parts else shipped_folder(kind).joinpath(*parts)
