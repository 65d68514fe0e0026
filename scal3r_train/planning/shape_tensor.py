"""Running a model's real code, forward and backward, on shapes alone: nothing is computed and nothing allocated.

A `ShapeTensor` calls itself a CPU tensor, so that autocast, the choice of the attention kernel and the autograd
formulas are those of real tensors, and holds a tensor on `meta`. torch's own FakeTensor does the same and more, at
0.3 ms an operation; here an operation that was seen before with the same shapes only repeats what it returned then,
which makes the step of a 1.27 B model a matter of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from scal3r_train.planning.live_bytes import LiveBytes

PRETENDED = torch.device("cpu")
META = torch.device("meta")
WHICH_DEVICE = torch.ops.prim.device.default

Layout: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], int, torch.dtype]  # size, strides, offset, dtype


class ShapeTensor(torch.Tensor):
    """A tensor without values.

    Attributes:
        storage: what stands for its memory, a storage on `meta`; views share it, as real ones would.
        spec: size, strides, offset and dtype.
    """

    storage: torch.UntypedStorage  # type: ignore[assignment]  # torch's own is a deprecated method
    spec: Layout
    _run: Callable[..., Any]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, storage: torch.UntypedStorage, spec: Layout, run: Callable[..., Any]) -> ShapeTensor:
        """Make a tensor of a layout in a storage; operations on it go to `run`."""
        size, strides, offset, dtype = spec
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, size, strides=strides, storage_offset=offset, dtype=dtype, device=PRETENDED
        )
        tensor.storage, tensor.spec, tensor._run = storage, spec, run
        return tensor

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation outside of the mode, e.g. when a parameter is made."""
        run = next(leaf._run for leaf in args if isinstance(leaf, ShapeTensor))
        return run(func, args, kwargs or {})

    def on_meta(self) -> Tensor:
        """Return the same tensor on `meta`."""
        size, strides, offset, dtype = self.spec
        return torch.empty(0, dtype=dtype, device=META).set_(self.storage, offset, size, strides)


@dataclass(frozen=True)
class Result:
    """What an operation returned once and will return again for the same shapes.

    Attributes:
        sequence: the type of a result that is a sequence, else None.
        new_storages: bytes of each storage it made.
        values: per value (kind, what, layout): an "input" by its place, a "view" of an input's storage, a "new" tensor
            in one of the new storages, or a "constant".
    """

    sequence: type | None
    new_storages: tuple[int, ...]
    values: tuple[tuple[str, Any, Layout | None], ...]


class ShapesOnly(TorchDispatchMode):
    """While active, every operation works on shapes, and the bytes it would have allocated are counted."""

    def __init__(self, live: LiveBytes) -> None:
        """Count into `live`."""
        super().__init__()
        self.live = live
        self._results: dict[Any, Result] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation on shapes."""
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Return the operation's result in shapes: as it was for the same shapes before, or found out on `meta`."""
        if func is WHICH_DEVICE:
            return PRETENDED
        inputs: list[ShapeTensor] = []
        args, kwargs = self._shapes_of(args), {name: self._shapes_of(value) for name, value in kwargs.items()}
        key = (func, _signature(args, inputs), tuple(kwargs), _signature(kwargs.values(), inputs))
        result = self._results.get(key)
        if result is not None:
            return self._repeat(result, inputs)
        on_meta = {id(tensor): tensor.on_meta() for tensor in inputs}
        answer = func(
            *_on_meta(args, on_meta), **{name: _on_meta(value, on_meta) for name, value in kwargs.items()}
        )
        self._results[key] = result = _describe(answer, [on_meta[id(tensor)] for tensor in inputs])
        return self._repeat(result, inputs)

    def _repeat(self, result: Result, inputs: Sequence[ShapeTensor]) -> Any:
        storages = [torch.UntypedStorage(size, device=META) for size in result.new_storages]
        for storage in storages:
            self.live.track(storage)
        values = []
        for kind, what, layout in result.values:
            if kind == "constant":
                values.append(what)
            elif kind == "input":
                values.append(inputs[what])
            else:
                assert layout is not None, "a new tensor has a layout"
                storage = storages[what] if kind == "new" else inputs[what].storage
                values.append(ShapeTensor(storage, layout, self.run))
        return values[0] if result.sequence is None else result.sequence(values)

    def _shapes_of(self, value: Any) -> Any:
        """Return an argument, or those of a sequence, with tensors of plain numbers replaced by their shapes."""
        if isinstance(value, Tensor) and not isinstance(value, ShapeTensor):
            storage = torch.UntypedStorage(value.untyped_storage().nbytes(), device=META)
            return ShapeTensor(storage, layout_of(value), self.run)
        if isinstance(value, list | tuple):
            return type(value)(self._shapes_of(item) for item in value)
        return value

    def convert(self, model: nn.Module, label: str) -> None:
        """Replace the parameters of a model on `meta`; their bytes are counted under `label`."""
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                tensor = ShapeTensor(parameter.untyped_storage(), layout_of(parameter), self.run)
                self.live.track(storage_of(tensor), label)
                module.register_parameter(name, nn.Parameter(tensor, requires_grad=parameter.requires_grad))


def storage_of(tensor: Tensor) -> torch.UntypedStorage:
    """Return the storage that stands for a tensor's memory."""
    return tensor.storage if isinstance(tensor, ShapeTensor) else tensor.untyped_storage()


def layout_of(tensor: Tensor) -> Layout:
    """Return size, strides, offset and dtype."""
    return tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()), tensor.dtype


def _signature(values: Iterable[Any], tensors: list[ShapeTensor]) -> tuple[Any, ...]:
    """Return what a result depends on, and collect the tensors among the values."""
    parts: list[Any] = []
    for value in values:
        if isinstance(value, ShapeTensor):
            tensors.append(value)
            parts.append(value.spec)
        elif isinstance(value, list | tuple):
            parts.append(_signature(value, tensors))
        else:
            parts.append((type(value), value))  # 1, 1.0 and True are equal but give other dtypes
    return tuple(parts)


def _on_meta(value: Any, known: Mapping[int, Tensor]) -> Any:
    """Return an argument, or those of a sequence, as `meta` knows them."""
    if isinstance(value, ShapeTensor):
        return known[id(value)]
    if isinstance(value, torch.device):
        return META
    if isinstance(value, list | tuple):
        return type(value)(_on_meta(item, known) for item in value)
    return value


def _describe(answer: Any, inputs: Sequence[Tensor]) -> Result:
    """Return what an operation on `meta` did."""
    is_sequence = isinstance(answer, list | tuple)
    held = [tensor.untyped_storage() for tensor in inputs]
    new: list[torch.UntypedStorage] = []
    values: list[tuple[str, Any, Layout | None]] = []
    for value in answer if is_sequence else [answer]:
        if not isinstance(value, Tensor):
            values.append(("constant", value, None))
            continue
        same = [place for place, tensor in enumerate(inputs) if tensor is value]
        storage = value.untyped_storage()
        sharing = [place for place, other in enumerate(held) if other is storage]
        if same:
            values.append(("input", same[0], None))
        elif sharing:
            values.append(("view", sharing[0], layout_of(value)))
        else:
            known = [place for place, other in enumerate(new) if other is storage]
            if not known:
                new.append(storage)
            values.append(("new", known[0] if known else len(new) - 1, layout_of(value)))
    sizes = tuple(storage.nbytes() for storage in new)
    return Result(type(answer) if is_sequence else None, sizes, tuple(values))
