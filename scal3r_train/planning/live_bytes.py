"""Counting the bytes of tensors that are alive, by what they are for: of real tensors, or of mere shapes."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

ACTIVATIONS, MEMORIES, GRADIENTS, STATES = "activations", "memories", "gradients", "states"
LABELS = (ACTIVATIONS, MEMORIES, GRADIENTS, STATES)


class LiveBytes:
    """The live bytes of every storage that was shown to it.

    A storage counts once, whatever its views, from `track` until torch lets go of it. `history` gets a row, the
    bytes of each of `LABELS`, whenever they grow: every maximum is among the rows.

    Attributes:
        label: what a storage is counted as when `track` is not told.
        history: the rows since `restart_history`.
    """

    def __init__(self) -> None:
        """Start with nothing alive."""
        self.label = ACTIVATIONS
        self.history: list[dict[str, int]] = []
        self._bytes = dict.fromkeys(LABELS, 0)
        self._tracked: dict[int, tuple[weakref.ref[torch.UntypedStorage], str, int]] = {}

    def track(self, storage: torch.UntypedStorage, label: str | None = None) -> None:
        """Count a storage under a label, by default the current one; one that is counted already stays as it is."""
        key = id(storage)  # torch keeps a storage's Python object for as long as the storage lives
        if key in self._tracked:
            return

        def forget(_: object) -> None:
            _, held_as, size = self._tracked.pop(key)
            self._bytes[held_as] -= size

        label = self.label if label is None else label
        self._tracked[key] = (weakref.ref(storage, forget), label, storage.nbytes())
        self._bytes[label] += storage.nbytes()
        self.history.append(dict(self._bytes))

    def relabel(self, storage: torch.UntypedStorage, label: str) -> None:
        """Count a storage under another label from now on."""
        self.track(storage, label)
        reference, before, size = self._tracked[id(storage)]
        self._tracked[id(storage)] = (reference, label, size)
        self._bytes[before] -= size
        self._bytes[label] += size
        self.history.append(dict(self._bytes))

    def weigh_again(self) -> None:
        """Look for storages whose size has changed."""
        for key, (reference, label, before) in list(self._tracked.items()):
            storage = reference()
            if storage is not None and storage.nbytes() != before:
                self._tracked[key] = (reference, label, storage.nbytes())
                self._bytes[label] += storage.nbytes() - before
                self.history.append(dict(self._bytes))

    def restart_history(self) -> None:
        """Forget the past; what is alive stays counted."""
        self.history = [dict(self._bytes)]

    def peak(self, weights: Mapping[str, float]) -> int:
        """Return the largest weighted sum of the labels' bytes that were alive at one time."""
        return max(int(sum(weights.get(label, 0) * row[label] for label in LABELS)) for row in self.history)

    @contextmanager
    def labelled(self, label: str) -> Iterator[None]:
        """Count what the body makes under a label."""
        before, self.label = self.label, label
        try:
            yield
        finally:
            self.label = before


class CountLiveBytes(TorchDispatchMode):
    """Show every tensor that an operation returns to a `LiveBytes`; what kernels use inside stays unseen."""

    def __init__(self, live: LiveBytes, *, storages_resize: bool = False) -> None:
        """Count into `live`; `storages_resize` also looks for changed sizes, which FSDP2 frees weights by."""
        super().__init__()
        self.live = live
        self.storages_resize = storages_resize

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and count its results."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._track(leaf)
        if self.storages_resize:
            self.live.weigh_again()
        return result

    def _track(self, tensor: Tensor) -> None:
        """Count a tensor; one that stands for local pieces (DTensor) by those, one on `meta` not at all."""
        if is_traceable_wrapper_subclass(tensor):
            names, _ = tensor.__tensor_flatten__()
            for name in names:
                piece = getattr(tensor, name)
                if isinstance(piece, Tensor):
                    self._track(piece)
        elif not tensor.is_meta:
            self.live.track(tensor.untyped_storage())
