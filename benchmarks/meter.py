"""Bytes that tensors take on a CPU: what the allocator of the C library has given out, read after each operator."""

import ctypes
import gc
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_SMALL = 2**16
"""Operators that make less are not worth a look."""


class _Mallinfo(ctypes.Structure):
    _fields_ = [(f"field_{number}", ctypes.c_size_t) for number in range(10)]


_LIBC = ctypes.CDLL("libc.so.6")
_LIBC.mallinfo2.restype = _Mallinfo


def allocated() -> int:
    """Bytes in use, of all threads: `uordblks`, and `hblkhd` for what has pages of its own (man 3 mallinfo)."""
    info = _LIBC.mallinfo2()
    return info.field_7 + info.field_4


def tensor_bytes() -> int:
    """Bytes of all tensors that Python can reach."""
    storages = {}
    for item in filter(lambda item: isinstance(item, Tensor), gc.get_objects()):
        for tensor in (item, getattr(item, "ds_tensor", None), item.grad if item.is_leaf else None):
            if tensor is not None:
                storage = getattr(tensor, "_local_tensor", tensor).untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


class Meter(TorchDispatchMode):
    """Keeps the most that is allocated after any operator."""

    def __init__(self) -> None:
        """Starts at nothing."""
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operator, and looks."""
        outputs = function(*args, **(kwargs or {}))
        if any(isinstance(part, Tensor) and part.nbytes > _SMALL for part in tree_leaves(outputs)):
            self.most = max(self.most, allocated())
        return outputs
