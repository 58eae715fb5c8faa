"""Measures the bytes of tensors on a CPU: what the C library's allocator has given out, read after each operator."""

import ctypes
import functools
import gc
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_SMALL = 2**16
"""Bytes; operators whose outputs are smaller are not measured."""


class _Mallinfo(ctypes.Structure):
    _fields_ = [(f"field_{number}", ctypes.c_size_t) for number in range(10)]


def measures() -> bool:
    """Whether this machine has a C library that tells what it has given out: glibc 2.33 or newer."""
    return _mallinfo2() is not None


def allocated() -> int:
    """The bytes that all threads use: `uordblks`, and `hblkhd` for blocks with pages of their own (man 3 mallinfo)."""
    read = _mallinfo2()
    assert read is not None, "ask measures() first"
    info = read()
    return info.field_7 + info.field_4


@functools.cache
def _mallinfo2() -> Callable[[], _Mallinfo] | None:
    """The function of the C library; None on macOS, with musl, and with an older glibc."""
    try:
        read = ctypes.CDLL("libc.so.6").mallinfo2
    except (OSError, AttributeError):
        return None
    read.restype = _Mallinfo
    return read


def tensor_bytes() -> int:
    """The bytes of all tensors that Python can reach."""
    storages = {}
    # `isinstance` would ask objects for their class, and some of them warn that they are deprecated.
    for item in filter(lambda item: issubclass(type(item), Tensor), gc.get_objects()):
        for tensor in (item, getattr(item, "ds_tensor", None), item.grad if item.is_leaf else None):
            if tensor is not None:
                storage = getattr(tensor, "_local_tensor", tensor).untyped_storage()
                # Fake tensors, such as those of a plan, have no memory.
                if storage.device.type != "meta":
                    storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


class Meter(TorchDispatchMode):
    """Keeps the largest number of bytes that were allocated after any operator."""

    def __init__(self) -> None:
        """Starts with 0 bytes."""
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operator, and reads the allocated bytes if its outputs are large."""
        outputs = function(*args, **(kwargs or {}))
        if any(isinstance(part, Tensor) and part.nbytes > _SMALL for part in tree_leaves(outputs)):
            self.most = max(self.most, allocated())
        return outputs
