"""XML of strangers: nothing is fetched, and no document can unfold into more than it is."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from scal3r_train.config import UserError
from scal3r_train.text_file import read_file_bytes


def parse_xml(path: Path) -> Element:
    """Return the root of a document; files that are not UTF-8 are read as ISO 8859-1, whatever they declare.

    References to files (circuits name the game's lists of surfaces so) are left out. Raises UserError for a document
    that cannot be read or declares an entity with a text of its own, of which "bombs" are made.
    """
    try:
        data = read_file_bytes(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    builder = TreeBuilder()
    parser = expat.ParserCreate(_encoding(data))
    parser.buffer_text = True

    def declared(name: str, is_parameter: bool, value: str | None, *rest: object) -> None:  # noqa: FBT001  expat's
        if value is not None:
            raise UserError(f"{path} declares the entity '{name}'; such documents are not read")

    parser.EntityDeclHandler = declared
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)
        return builder.close()
    except expat.ExpatError as error:
        raise UserError(f"{path} is no valid XML: {error}") from None


def _encoding(data: bytes) -> str:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "iso-8859-1"
    return "utf-8"
