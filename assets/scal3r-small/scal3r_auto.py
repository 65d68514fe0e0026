"""Scal3R for transformers' Auto classes; nothing here but the way to the installed package scal3r_train.

Saved beside every model: `AutoModel.from_pretrained(FOLDER, trust_remote_code=True)` runs it where scal3r_train has not
been imported.
"""

try:
    import scal3r_train
except ModuleNotFoundError as error:
    if error.name != "scal3r_train":
        raise
    raise ImportError(
        "this model needs the package scal3r_train: install its wheel or a checkout (pip install PATH) and try again"
    ) from None


def __getattr__(name: str) -> type:
    """Return `Scal3RConfig`, `Scal3RModel` or `Scal3RImageProcessor`, imported now."""
    value: type = getattr(scal3r_train, name)
    return value
