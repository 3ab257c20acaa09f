"""How this process takes memory from Linux: freed tensors go back at once, and large ones lie on huge pages. It knows no torch.

glibc keeps freed blocks of up to 32 MiB, and an aligned request, which every tensor of torch is, wants a hole larger than itself: what
one freed does not do for the next of its size. A step of a checkpointed transformer so held 2.5 GiB for 0.9 GiB of tensors. A mapping
for each larger tensor costs page faults, most of which huge pages save (both measured: docs/benchmarks.md).
"""

import ctypes
import os
from pathlib import Path

from wan_alpha.linux import stated_bytes

OWN_MAPPING_FROM = 2 * 2**20
"""Bytes: torch's own limit for huge pages (c10/core/impl/alloc_cpu.cpp)."""
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
SET_BY_USER = ("MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
_M_MMAP_THRESHOLD = -3  # malloc.h


def ask_for_huge_pages() -> None:
    """Before torch is imported, which reads it once: large tensors on huge pages, where Linux gives them to those who ask."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if setting.is_file() and "[never]" not in setting.read_text():
        os.environ.setdefault(HUGE_PAGES, "1")


def give_back_freed_tensors(device_type: str) -> None:
    """From now on every larger tensor has its own mapping; nothing happens without glibc, off the CPU, or where the user tuned malloc."""
    if device_type != "cpu" or tuned_by_user():
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, OWN_MAPPING_FROM)


def tuned_by_user() -> bool:
    return any(name in os.environ for name in SET_BY_USER)


def resident_bytes() -> int | None:
    """What this process has in memory now, code included, where Linux says it."""
    return stated_bytes("/proc/self/status", "VmRSS")
