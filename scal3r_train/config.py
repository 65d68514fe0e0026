"""Strict settings and recipe files: the lowest layer but for the names of shipped files.

A recipe is one YAML 1.2 file that becomes one frozen pydantic model. The order of precedence, lowest first,
is defaults in code, the chain of `extends:` parents, the file, `key.path=value` overrides. Mappings merge,
everything else (lists included) replaces. Whatever the code does not know is refused with a single line.
"""

import hashlib
import json
import os
import stat
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from scal3r_train.notes import tell
from scal3r_train.os_errors import told
from scal3r_train.refusal import refusal
from scal3r_train.shipped import find_recipe, shipped_recipe
from scal3r_train.text_file import read_text_file
from scal3r_train.yaml_text import MAX_BYTES, YamlError, dump_yaml_text, line_of, parse_yaml

HASH_BLOCK_BYTES = 1 << 22
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


class UserError(ValueError):
    """A mistake that the user can mend: one line saying what is wrong, where, and what to do.

    The command line prints it to stderr and exits with code 2. Internal invariants are asserted instead.
    """


class StrictModel(BaseModel):
    """Base of all settings: frozen, refusing unknown keys and numbers that are not finite.

    Settings live beside the code that reads them; `scal3r_train.recipe` composes them.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),  # `model:` is a section of every training recipe
    )


StrictModelT = TypeVar("StrictModelT", bound=StrictModel)


def load_config(
    cls: type[StrictModelT], path: str | os.PathLike[str] | None, overrides: Sequence[str] = ()
) -> StrictModelT:
    """Return the settings of class `cls` from a recipe file (None: the defaults in code) and overrides.

    Types are strict: `"3"` is no number, `1` is no string and `yes` is no boolean.
    Raises UserError, one line, for anything unreadable, unknown or out of range.
    """
    source = "overrides" if path is None else str(path)
    return validate_mapping(cls, load_mapping(path, overrides), source)


def validate_mapping(cls: type[StrictModelT], mapping: Mapping[str, Any], source: str) -> StrictModelT:
    """Return `mapping` as settings of class `cls`; `source` names its origin in a UserError."""
    # Validating as JSON makes pydantic's strict mode usable: lists still become tuples, strings paths.
    try:
        text = json.dumps(mapping, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{source}: {error}; write plain keys, and no value inside itself") from None
    try:
        return cls.model_validate_json(text, strict=True)
    except ValidationError as error:
        line, keys, value = refusal(cls, error, json.loads(text))
        raise UserError(f"{_place(source, keys, value)}: {line}") from None


def load_mapping(path: str | os.PathLike[str] | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the plain mapping that a recipe file, its parents and `key.path=value` overrides add up to.

    `path` and `extends:` may also name a recipe that comes with the package, such as `debug/cpu`; a file wins.

    Raises UserError for a missing or malformed file, a key that appears twice, a missing or circular parent
    and an override that does not parse or points nowhere.
    """
    mapping = {} if path is None else _load_with_parents(find_recipe(os.fspath(path)), ())
    for override in overrides:
        _apply_override(mapping, override)
    return mapping


def dump_yaml(model: BaseModel) -> str:
    """Return the settings, defaults included, as YAML that `load_config` reads back to an equal model."""
    return dump_mapping(model.model_dump(mode="json"))


def dump_mapping(mapping: Mapping[str, Any]) -> str:
    """Return plain values as YAML in the style of recipes."""
    return dump_yaml_text(mapping)


def run_command(command: Callable[[], int | None]) -> int:
    """Return a program's exit code: what `command` returns (None is 0), 2 for a UserError, 130 for Ctrl-C.

    The one place where a UserError, or what the operating system refuses, becomes a line on stderr, for `scal3r` and
    modules started by torchrun. A reader of the output who has left, as `head` does, is no error of ours: 141.
    """
    try:
        code = command() or 0
        sys.stdout.flush()  # or a full disk there would be found when nobody can say it any more
    except UserError as error:
        tell(f"scal3r: error: {one_line(error)}")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        tell("scal3r: interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return EXIT_BROKEN_PIPE
    except Exception as error:
        line = told(error)
        if line is None:
            raise
        tell(f"scal3r: error: {line}")
        _discard_output()
        return EXIT_USER_ERROR
    return code


def one_line(error: BaseException) -> str:
    """Return the text of an error without line breaks."""
    return " ".join(str(error).split())


def _discard_output() -> None:
    """Let Python not try once more, at its end, to write what cannot be written."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


@contextmanager
def writing(output: str) -> Iterator[None]:
    """Let what the operating system refuses in the body be a UserError about `output`, such as "index towns.parquet".

    An error that names another file, as one that cannot be read, is about that. Others pass as they are.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        line = told(error, output)
        if line is None:
            raise
        raise UserError(line) from error


@contextmanager
def atomic_output(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to it on success and removed on any error.

    The suffix is kept, for writers that choose the format by it. Missing parent folders are made. The permissions are
    those of any new file, whatever wrote it (`permit_as_new`).
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.partial{target.suffix}")
    try:
        yield temporary
        permit_as_new(temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def permit_as_new(*paths: Path) -> None:
    """Give files that were written for their owner alone, as safetensors writes, the permissions of new files.

    These are what the umask leaves, or a folder's default access list: found by making a file, since to read the umask
    is to change it, for all threads. Raises OSError where that cannot be done.
    """
    for path in paths:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            continue
        probe = path.with_name(f".{uuid.uuid4().hex}")
        try:
            os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            path.chmod(stat.S_IMODE(probe.stat().st_mode))
        finally:
            probe.unlink(missing_ok=True)


def write_text_atomically(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8 so that readers see the old file or the whole new one, never a part."""
    with atomic_output(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def files_sha256(paths: Iterable[Path]) -> str:
    """Return one SHA-256 over the contents of files, in the order given. Raises OSError if one cannot be read."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(HASH_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _parse_yaml(text: str, source: str, *, is_file: bool = False) -> Any:
    """Return the value of one YAML document; `source` opens the line of the UserError for bad YAML."""
    try:
        return parse_yaml(text)
    except YamlError as error:
        where = f"{source}:{error.line}" if is_file and error.line else source
        raise UserError(f"{where}: {error.problem}") from None


def _place(source: str, keys: Sequence[str], value: Any) -> str:
    """Return `source` with the line that sets the value, or with the parent and its line where that is inherited."""
    path, is_own = find_recipe(source), True
    while path.is_file():
        text = read_text_file(path, MAX_BYTES)
        line = line_of(text, keys, value) if keys else None
        if line is not None:
            return f"{source}:{line}" if is_own else f"{source}: {path}:{line}"
        mapping = parse_yaml(text)
        if not isinstance(mapping, dict) or not isinstance(mapping.get("extends"), str):
            break
        path, is_own = _parent(path, mapping["extends"]), False
    return source


def _parent(path: Path, named: str) -> Path:
    """Return the file that a recipe extends: beside it, or a shipped one."""
    beside = path.parent / named
    return beside if beside.is_file() else shipped_recipe(named) or beside


def _load_with_parents(path: Path, children: tuple[Path, ...]) -> dict[str, Any]:
    """Return the file's mapping merged over its parent's; `children` are the files that led here."""
    if path.resolve() in [child.resolve() for child in children]:
        chain = " -> ".join(str(link) for link in (*children, path))
        raise UserError(f"{children[0]}: `extends` goes in a circle ({chain}); break it")
    wanted_by = f", which {children[-1]} extends," if children else ""
    try:
        text = read_text_file(path, MAX_BYTES)
    except FileNotFoundError:
        raise UserError(
            f"recipe {path}{wanted_by} does not exist; check the path, or see `scal3r recipes`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"recipe {path}{wanted_by} cannot be read: {error}; it must be a UTF-8 text file"
        ) from None
    mapping = _parse_yaml(text, str(path), is_file=True)
    if mapping is None:
        mapping = {}
    if not isinstance(mapping, dict):
        raise UserError(f"{path}: a recipe must map keys to values, it is a {type(mapping).__name__}")
    if "extends" not in mapping:
        return mapping
    parent = mapping.pop("extends")
    if not isinstance(parent, str):
        raise UserError(f"{path}: `extends` must be one path relative to this file, not {parent!r}")
    return merge_mappings(_load_with_parents(_parent(path, parent), (*children, path)), mapping)


def merge_mappings(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    """Return `child` laid over `parent`: mappings merge key by key, any other value replaces."""
    merged = dict(parent)
    for key, value in child.items():
        below = merged.get(key)
        merged[key] = (
            merge_mappings(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
        )
    return merged


def _apply_override(mapping: dict[str, Any], override: str) -> None:
    """Set one `key.path=value` in place; numbers in the path are indices where the recipe holds a list."""
    key_path, separator, text = override.partition("=")
    keys = key_path.split(".")
    if not separator or not all(keys):
        raise UserError(f"override '{override}' is not of the form key.path=value")
    if not text.strip():
        raise UserError(f"override '{override}' has no value; write {key_path}=null or {key_path}='\"\"'")
    if keys == ["extends"]:
        raise UserError("`extends` cannot be overridden on the command line; write it in a recipe file")
    value = _parse_yaml(text, f"override '{override}'")
    node: Any = mapping
    for depth, key in enumerate(keys[:-1]):
        child = node[_index_or_key(node, key, override)] if isinstance(node, list) else node.get(key)
        if child is None:
            child = {}
            node[_index_or_key(node, key, override)] = child
        if not isinstance(child, dict | list):
            here = ".".join(keys[: depth + 1])
            raise UserError(f"override '{override}': {here} is {child!r}, which has no keys below it")
        node = child
    node[_index_or_key(node, keys[-1], override)] = value


def _index_or_key(node: dict[str, Any] | list[Any], key: str, override: str) -> Any:
    """Return `key` as an existing index when `node` is a list, else unchanged."""
    if isinstance(node, dict):
        return key
    if not (key.isascii() and key.isdecimal() and int(key) < len(node)):
        allowed = f"0 to {len(node) - 1}" if node else "none, it is empty"
        raise UserError(f"override '{override}': '{key}' is no index of that list (allowed: {allowed})")
    return int(key)
