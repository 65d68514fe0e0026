"""What FSDP2 holds of a model on a rank and gathers at a time, padding included.

A rank's piece of a parameter is as long as the first rank's, and a gathered module takes the ranks' pieces together:
more than the module where a dimension does not divide by the ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from torch import nn

from scal3r_train.parallel.shard_dimension import shard_dimension

FP32 = 4


@dataclass(frozen=True)
class Fsdp2Pieces:
    """Bytes of one rank.

    Attributes:
        held: pieces of all parameters, and the parameters that are not cut.
        trained: of these, the trained ones.
        uncut_trained: trained parameters that are not cut; their gradients are summed apart.
        largest_unit_buffer: the largest module that is gathered at a time, on all ranks together.
        root_buffer: what is in no such module and stays gathered.
        gathered: all that is gathered in forward: each module as often as it is called.
        reduced: gradients of what is cut, padded as it is.
        real: all parameters, without padding: what buffers are compared with.
    """

    held: int
    trained: int
    uncut_trained: int
    largest_unit_buffer: int
    root_buffer: int
    gathered: int
    reduced: int
    real: int


def fsdp2_pieces(model: nn.Module, calls: Mapping[nn.Module, int], world_size: int) -> Fsdp2Pieces:
    """Return the sizes for a model whose modules are called so often in forward."""
    names = set(cast(list[str], model._no_split_modules))
    units = [module for module in model.modules() if type(module).__name__ in names]
    of_units = {unit: list(unit.parameters()) for unit in units}
    in_units = {parameter for parameters in of_units.values() for parameter in parameters}
    root = [parameter for parameter in model.parameters() if parameter not in in_units]
    parameters = list(model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    buffers = {unit: _gathered(own, world_size) for unit, own in of_units.items()}
    root_buffer = _gathered(root, world_size)
    return Fsdp2Pieces(
        held=_held(parameters, world_size),
        trained=_held(trained, world_size),
        uncut_trained=sum(_bytes(one) for one in trained if shard_dimension(one.shape, world_size) is None),
        largest_unit_buffer=max(buffers.values(), default=0),
        root_buffer=root_buffer,
        gathered=root_buffer + sum(calls.get(unit, 1) * size for unit, size in buffers.items()),
        reduced=_gathered(trained, world_size),
        real=sum(map(_bytes, parameters)),
    )


def _bytes(parameter: nn.Parameter) -> int:
    return parameter.numel() * parameter.element_size()


def _piece(parameter: nn.Parameter, world_size: int) -> int:
    """Return the bytes of a rank's piece of a parameter that is cut, 0 for others."""
    dimension = shard_dimension(parameter.shape, world_size)
    if dimension is None:
        return 0
    length = parameter.shape[dimension]
    return -(-length // world_size) * (_bytes(parameter) // length)


def _gathered(parameters: Iterable[nn.Parameter], world_size: int) -> int:
    return world_size * sum(_piece(parameter, world_size) for parameter in parameters)


def _held(parameters: Iterable[nn.Parameter], world_size: int) -> int:
    return sum(_piece(parameter, world_size) or _bytes(parameter) for parameter in parameters)
