"""What the process does with memory that PyTorch frees on a CPU."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """Let freed memory stay with the process instead of going back to the kernel.

    Every update frees and asks for the same large tensors. By default, glibc gets each from the kernel anew, which
    fills it with zeros page by page when it is touched: up to two fifths of a CPU training's time. The process keeps
    its peak until it ends.

    Returns:
        Whether the C library could be told; others than glibc do as they do.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
