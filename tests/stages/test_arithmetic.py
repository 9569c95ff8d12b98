"""What a process computes with."""

import platform
import resource

import pytest
import torch

from rlx.stages.arithmetic import keep_freed_memory

LARGE, BLOCKS = 1 << 24, 8
"""Bytes of a block, and how many a step has: more than glibc keeps by itself."""


def faults() -> int:
    """Pages that were filled with zeros for a step's blocks."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.empty(LARGE, dtype=torch.uint8).fill_(1) for _ in range(BLOCKS)]
    assert len(held) == BLOCKS
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no mallopt")
def test_memory_that_tensors_leave_is_used_again():
    keep_freed_memory()
    seen = [faults() for _ in range(4)]
    assert seen[-1] < LARGE * BLOCKS / resource.getpagesize() / 8, seen


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    keep_freed_memory()
