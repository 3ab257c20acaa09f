"""Freed tensors go back to Linux."""

import os
import subprocess
import sys

import pytest

from wan_alpha.malloc import HUGE_PAGES, ask_for_huge_pages, give_back_freed_tensors

HOLES = """
import ctypes
from wan_alpha.malloc import give_back_freed_tensors, resident_bytes
give_back_freed_tensors("cpu")
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
before = resident_bytes()
blocks = [libc.malloc(8 << 20) for _ in range(16)]
for block in blocks:
    libc.memset(block, 1, 8 << 20)
held = resident_bytes() - before
for block in blocks[:-1]:
    libc.free(block)
print(held >> 20, resident_bytes() - before >> 20)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux says what is resident")
def test_freed_blocks_below_a_living_one_are_not_kept() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    run = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True, env=environment)
    held, kept = map(int, run.stdout.split())
    assert held >= 120
    assert kept <= 12


def opened_libraries(monkeypatch) -> list[str | None]:
    """Through which alone malloc can be set; none is really opened."""
    opened: list[str | None] = []
    monkeypatch.setattr("ctypes.CDLL", lambda name: opened.append(name))
    return opened


def test_a_user_who_tuned_malloc_keeps_that(monkeypatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    opened = opened_libraries(monkeypatch)
    give_back_freed_tensors("cpu")
    assert opened == []


def test_other_devices_leave_malloc_alone(monkeypatch) -> None:
    opened = opened_libraries(monkeypatch)
    give_back_freed_tensors("cuda")
    assert opened == []


def test_the_users_choice_of_huge_pages_stays(monkeypatch) -> None:
    monkeypatch.setenv(HUGE_PAGES, "0")
    ask_for_huge_pages()
    assert os.environ[HUGE_PAGES] == "0"
