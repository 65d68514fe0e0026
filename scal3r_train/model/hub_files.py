"""What of a folder is published: weights, configuration, processor, recipe, card; nothing of this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open

from scal3r_train.config import UserError, dump_mapping, files_sha256, load_mapping
from scal3r_train.model.configuration_scal3r import AUTO_FILE
from scal3r_train.model.hub_card import CardFacts, at_home, model_card
from scal3r_train.model.weight_files import (
    CONFIG_NAME,
    SHARD_INDEX_NAME,
    checkpoint_folder,
    folder_sha256,
    weight_files,
)

CARD_NAME, RECIPE_NAME, PROCESSOR_NAME = "README.md", "recipe.yaml", "preprocessor_config.json"
EXPORT_NAMES = ("model", "model_ema", "model_best")  # of folders that say nothing of what is in them
KEPT_PARTS = 2
HUB_BLOBS = "blobs"  # beside snapshots/COMMIT, whose files are links to it


def published_files(folder: Path, repo_id: str) -> dict[str, Path | bytes]:
    """Return by name what is published of a folder of weights, as files or as contents, the large ones first.

    The card is the folder's own, or is made of what can be known without one. Paths in the recipe are shortened.

    Args:
        folder: as `save_pretrained` and trainings write it.
        repo_id: OWNER/NAME on the hub, for the card.

    Raises:
        UserError: the folder holds no weights, a text in it names a path of this machine, or a file lies elsewhere.
    """
    checkpoint_folder(folder)
    files: dict[str, Path | bytes] = {path.name: path for path in weight_files(folder)}
    for name in (SHARD_INDEX_NAME, CONFIG_NAME, AUTO_FILE.name, PROCESSOR_NAME):
        if (folder / name).is_file():
            files[name] = folder / name
    recipe, card = folder / RECIPE_NAME, folder / CARD_NAME
    for path in (*files, RECIPE_NAME, CARD_NAME):
        _refuse_outside(folder, folder / path)
    if recipe.is_file():
        files[RECIPE_NAME] = dump_mapping(without_local_paths(load_mapping(recipe))).encode()
    text = (
        at_home(card.read_text(encoding="utf-8"), repo_id)
        if card.is_file()
        else unknown_card(folder, repo_id)
    )
    files[CARD_NAME] = text.encode()
    for name, content in files.items():
        if isinstance(content, bytes) or name.endswith(".json"):
            _refuse_local_path(folder / name, content if isinstance(content, bytes) else content.read_bytes())
    return files


def _refuse_outside(folder: Path, path: Path) -> None:
    """Raise UserError for a file that a link leads out of the folder, but into the Hub's own store of downloads."""
    places = (folder.resolve(), folder.resolve().parent.parent / HUB_BLOBS)
    if path.exists() and not any(path.resolve().is_relative_to(place) for place in places):
        raise UserError(
            f"{path} leads to {path.resolve()}, outside of {folder}; copy it there if it is to be published"
        )


def unknown_card(
    folder: Path,
    repo_id: str | None = None,
    started_from: str | None = None,
    base_model: str | None = None,
) -> str:
    """Return the card of weights of which nothing is known but themselves, and perhaps what they came from."""
    name = repo_id.split("/")[-1] if repo_id else name_of_weights(folder)
    return model_card(
        CardFacts(
            name=name,
            licence="other",
            num_parameters=num_parameters(folder),
            checkpoint_sha256=folder_sha256(folder),
            started_from=started_from,
            base_model=base_model,
        ),
        repo_id,
    )


def describe_saved(folder: Path, loaded_from: str, repo_id: str) -> None:
    """Write the card of a model that has just been saved into `folder`, and what belongs to it beside.

    Args:
        folder: of the new weights.
        loaded_from: what the model was loaded from, a folder or OWNER/NAME; "" for a new one. A folder's card and
            recipe are true of the new weights when these are the same; its image processor fits in any case.
        repo_id: OWNER/NAME on the hub.
    """
    source = Path(loaded_from)
    has_source = loaded_from != "" and (source / CONFIG_NAME).is_file()
    if has_source and (source / PROCESSOR_NAME).is_file():
        shutil.copyfile(source / PROCESSOR_NAME, folder / PROCESSOR_NAME)
    if has_source and files_sha256(weight_files(source)) == files_sha256(weight_files(folder)):
        for name in (CARD_NAME, RECIPE_NAME):
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
    if not (folder / CARD_NAME).is_file():
        is_of_hub = not has_source and loaded_from.count("/") == 1 and not Path(loaded_from).is_absolute()
        base = loaded_from if is_of_hub else None
        card = unknown_card(folder, repo_id, name_of_weights(source) if has_source else base, base)
        (folder / CARD_NAME).write_text(card, encoding="utf-8")


def num_parameters(folder: Path) -> int:
    """Return how many numbers the weight files of a folder hold; UserError when one is damaged."""
    total = 0
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():
                    count = 1
                    for side in file.get_slice(name).get_shape():
                        count *= side
                    total += count
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} cannot be read: {error}; save or copy the folder again") from None
    return total


def name_of_weights(folder: Path) -> str:
    """Return what a folder of weights is called: the title of its card, else its name, or that of the run around it."""
    card = folder / CARD_NAME
    if card.is_file():
        lines = card.read_text(encoding="utf-8", errors="replace").splitlines()
        title = next((line.removeprefix("# ") for line in lines if line.startswith("# ")), "")
        if title:
            return title
    return folder.parent.name if folder.name in EXPORT_NAMES and folder.parent.name else folder.name


def without_local_paths(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain settings whose paths of this machine (absolute, or above the run) are cut to their last parts.

    So many parts that different paths stay different; two at least.
    """
    paths = {text for text in _texts(mapping) if _is_local(text)}
    kept = KEPT_PARTS
    while len({_last_parts(path, kept) for path in paths}) < len(paths) and kept < max(
        len(PurePosixPath(path).parts) for path in paths
    ):
        kept += 1

    def shortened(node: Any) -> Any:
        if isinstance(node, Mapping):
            return {key: shortened(value) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return [shortened(value) for value in node]
        return _last_parts(node, kept) if isinstance(node, str) and _is_local(node) else node

    return {key: shortened(value) for key, value in mapping.items()}


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        node = list(node.values())
    if isinstance(node, list | tuple):
        for value in node:
            yield from _texts(value)
    elif isinstance(node, str):
        yield node


def _is_local(text: str) -> bool:
    return text.startswith(("/", "~")) or text.startswith("../") or "/../" in text


def _last_parts(text: str, count: int) -> str:
    parts = [part for part in PurePosixPath(text).parts if part not in ("/", "..", ".") and part[:1] != "~"]
    return "/".join(parts[-count:])


def _refuse_local_path(path: Path, content: bytes) -> None:
    """Raise UserError when a text names the home of this user or the folder that it lies in."""
    text = content.decode("utf-8", errors="replace")
    for place in (Path.home(), path.parent.resolve(), path.parent.absolute()):
        if len(place.parts) > 1 and f"{place}" in text:
            line = next(number for number, one in enumerate(text.splitlines(), 1) if str(place) in one)
            raise UserError(f"{path}:{line} names {place}, a place on this machine; edit it, then publish")
