"""Scal3R for transformers' Auto classes; nothing here but the way to the installed package scal3r_train.

Saved beside every model: `AutoModel.from_pretrained(FOLDER, trust_remote_code=True)` runs it where scal3r_train has not
been imported.
"""

try:
    from scal3r_train import Scal3RConfig, Scal3RImageProcessor, Scal3RModel
except ModuleNotFoundError as error:
    if error.name != "scal3r_train":
        raise
    raise ImportError(
        "this model needs the package scal3r_train: install its wheel or a checkout (pip install PATH) and try again"
    ) from None

__all__ = ["Scal3RConfig", "Scal3RImageProcessor", "Scal3RModel"]
