"""A CUDA device without a GPU: tensors that say `cuda:0`, forward and backward, and no values.

The device guard of guard.cpp makes torch accept the device, FakeTensorMode computes shapes, dtypes and devices as CUDA
would have them. What a process has loaded it cannot unload: tests do this in a process of their own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import DefaultDeviceType

SOURCE = Path(__file__).with_name("guard.cpp")
CUDA = torch.device("cuda", 0)
TRANSFERS = ("waits", "to device", "to host", "index copies")


def compiler() -> str | None:
    """Return the C++ compiler, if there is one."""
    return shutil.which(os.environ.get("CXX", "c++"))


def build(folder: Path) -> Path:
    """Compile guard.cpp against this torch into `folder` unless it is there, and return the library."""
    base = Path(torch.__file__).parent
    key = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    library = folder / f"fake_cuda_{key}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = library.with_suffix(f".{os.getpid()}")
        includes = [f"-isystem{base / 'include'}"]
        abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"
        libraries = [f"-L{base / 'lib'}", "-lc10", "-ltorch_cpu"]
        options = ["-std=c++20", "-O0", "-fPIC", "-shared", abi]
        command = [str(compiler()), *options, *includes, str(SOURCE), "-o", str(partial), *libraries]
        subprocess.run(command, check=True)
        partial.rename(library)
    return library


class Traffic(TorchDispatchMode):
    """Counts what makes host and device wait for each other, and makes up the values that the host reads.

    Numbers are 0 and lists are of ones, which a training step takes for a vote without objections and for finite
    losses. Those of CPU tensors (the optimizer's count of steps, the chunks that are no padding) are 1.

    Attributes:
        counts: by kind, see TRANSFERS. waits: values read back, a list as one; index copies: those to the device that
            an index of a device tensor takes (they are among "to device" too).
        products, convolutions: of each on the device, the dtype of its operands and whether TF32 was allowed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts = dict.fromkeys(TRANSFERS, 0)
        self.products: list[tuple[torch.dtype, bool]] = []
        self.convolutions: list[tuple[torch.dtype, bool]] = []

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = function.overloadpacket
        tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        aten = torch.ops.aten
        if packet is aten._local_scalar_dense:
            return self._number(tensors[0])
        if packet is aten.nonzero:
            self.counts["waits"] += tensors[0].is_cuda
            return tensors[0].new_zeros((tensors[0].numel(), tensors[0].dim()), dtype=torch.int64)
        if packet in (aten.mm, aten.bmm, aten.addmm, aten.baddbmm) and tensors[0].is_cuda:
            self.products.append((tensors[-1].dtype, torch.backends.cuda.matmul.allow_tf32))
        if packet in (aten.convolution, aten.convolution_backward) and tensors[0].is_cuda:
            self.convolutions.append((tensors[0].dtype, torch.backends.cudnn.allow_tf32))
        if packet in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_):
            self.counts["index copies"] += sum(
                t.device.type == "cpu" for t in tensors[1:] if tensors[0].is_cuda
            )
        result = function(*args, **kwargs)
        if packet is aten.copy_:
            self._moved(tensors[1], tensors[0])
        elif packet is aten._to_copy:
            self._moved(tensors[0], result)
        return result

    def _moved(self, source: Tensor, target: Tensor) -> None:
        if source.device != target.device:
            self.counts["to device" if target.is_cuda else "to host"] += 1

    def _number(self, tensor: Tensor) -> bool | int | float:
        self.counts["waits"] += tensor.is_cuda
        if tensor.dtype == torch.bool:
            return False
        number = 0 if tensor.is_cuda else 1
        return float(number) if tensor.is_floating_point() else number

    def read_list(self, tensor: Tensor) -> Any:
        """Return made-up values of a tensor's `tolist`."""
        self.counts["waits"] += tensor.is_cuda
        nested: Any = 1.0 if tensor.is_floating_point() else int(not tensor.is_cuda)
        for size in reversed(tensor.shape):
            nested = [nested] * size
        return nested


@contextmanager
def pretended_cuda(library: Path) -> Iterator[None]:
    """Make CUDA tensors possible within; the process keeps the guard."""
    torch.ops.load_library(str(library))
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.cuda.is_bf16_supported = lambda *_, **__: True
    DefaultDeviceType.set_device_type("cuda")  # what checkpointing finds by itself where there is a GPU
    with FakeTensorMode():
        yield


@contextmanager
def watched_traffic() -> Iterator[Traffic]:
    """Count transfers within `pretended_cuda`."""
    traffic, original = Traffic(), FakeTensor.tolist
    FakeTensor.tolist = lambda tensor: traffic.read_list(tensor)  # type: ignore[method-assign]
    try:
        with traffic:
            yield traffic
    finally:
        FakeTensor.tolist = original  # type: ignore[method-assign]
