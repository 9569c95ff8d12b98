"""What a process computes with."""

import platform
import resource

import pytest
import torch

from rlx.stages.arithmetic import keep_freed_memory

LARGE = 1 << 24
"""Bytes of a block that glibc may ask the system for each time."""


def faults() -> int:
    """Pages that were filled with zeros for one large block more."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(LARGE, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no mallopt")
def test_memory_that_tensors_leave_is_used_again():
    keep_freed_memory()
    faults()
    assert faults() < 100


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    keep_freed_memory()
