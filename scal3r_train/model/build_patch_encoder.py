"""Which patch encoder a configuration names."""

from __future__ import annotations

from torch import nn

from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.motion_encoder import DirectPatchEncoder
from scal3r_train.model.patch_encoder import ConvPatchEncoder, CorrelationPatchEncoder, DinoPatchEncoder


def build_patch_encoder(config: Scal3RConfig) -> nn.Module:
    """Return the patch encoder that `config.patch_encoder` names."""
    if config.patch_encoder == "dinov2":
        return DinoPatchEncoder(config)
    if config.patch_encoder == "correlation":
        return CorrelationPatchEncoder(config)
    if config.patch_encoder == "direct":
        return DirectPatchEncoder(config)
    return ConvPatchEncoder(config.patch_size, config.hidden_size)
