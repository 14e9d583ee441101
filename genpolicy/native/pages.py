"""Memory of large tensors on large pages, which are read faster than small ones."""

from __future__ import annotations

import mmap

import torch
from torch import Tensor

__all__ = ["PAGE", "on_large_pages"]

PAGE = 2 * 1024 * 1024
"""Bytes of a large page of x86-64 and of 64-bit ARM with small pages of 4 KiB."""


def on_large_pages(tensor: Tensor) -> Tensor:
    """Return a contiguous copy on large pages, or the tensor where it is small or there are none.

    Weights of a U-Net fit into no cache, and reading them by pages of 4 KiB waits for the tables
    that say where pages are. The system is asked for large ones (``MADV_HUGEPAGE``), which it may
    refuse without harm.
    """
    size = tensor.numel() * tensor.element_size()
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None or size < PAGE or tensor.device.type != "cpu":
        return tensor
    room = mmap.mmap(-1, size + PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        room.madvise(advice)
    except OSError:  # a kernel without them
        return tensor
    raw = torch.frombuffer(room, dtype=torch.uint8)  # keeps the mapping
    first = -raw.data_ptr() % PAGE
    copy = raw[first : first + size].view(tensor.dtype).view(tensor.shape)
    return copy.copy_(tensor)
