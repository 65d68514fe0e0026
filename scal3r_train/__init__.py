"""Training, evaluation and reconstruction for Scal3R, a feed-forward 3D model with a context memory.

    from scal3r_train import Scal3RConfig, Scal3RImageProcessor, Scal3RModel, load_scene, reconstruct

Each of these names is imported when it is first used: importing the package loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scal3r_train.inference.image_processing_scal3r import Scal3RImageProcessor as Scal3RImageProcessor
    from scal3r_train.inference.python_api import reconstruct as reconstruct
    from scal3r_train.model.configuration_scal3r import Scal3RConfig as Scal3RConfig
    from scal3r_train.model.modeling_scal3r import Scal3RModel as Scal3RModel
    from scal3r_train.model.modeling_scal3r import Scal3ROutput as Scal3ROutput
    from scal3r_train.scene.scene import Scene as Scene
    from scal3r_train.scene.scene import load_scene as load_scene

__version__ = "0.1.0"

# Public name: the module that defines it.
_HOMES = {
    "Scal3RConfig": "scal3r_train.model.configuration_scal3r",
    "Scal3RImageProcessor": "scal3r_train.inference.image_processing_scal3r",
    "Scal3RModel": "scal3r_train.model.modeling_scal3r",
    "Scal3ROutput": "scal3r_train.model.modeling_scal3r",
    "Scene": "scal3r_train.scene.scene",
    "load_scene": "scal3r_train.scene.scene",
    "reconstruct": "scal3r_train.inference.python_api",
}
__all__ = [
    "Scal3RConfig",
    "Scal3RImageProcessor",
    "Scal3RModel",
    "Scal3ROutput",
    "Scene",
    "__version__",
    "load_scene",
    "reconstruct",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
