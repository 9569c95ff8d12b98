"""How an operation is carried out, and which way was taken: run.json names it under `kernels`."""

from enum import Enum


class Impl(str, Enum):
    """Ways to carry out one operation. What cannot be had is refused; nothing is put in its place."""

    auto = "auto"
    """The fastest that runs here."""
    reference = "reference"
    """Plain torch that reads like the definition, in any dtype up to float64."""
    torch = "torch"
    """The best composition of torch's own operations."""
    triton = "triton"
    """A kernel of ours."""
    fla = "fla"
    """A kernel of flash-linear-attention, where it is installed."""


_noted: dict[str, str] = {}


def chose(op: str, impl: Impl) -> Impl:
    """Note that `op` is carried out as `impl`, which is returned.

    Called outside of compiled code (a mixer does it in its `needs`): a compiler would watch the note for changes.
    """
    _noted[op] = impl.value
    return impl


def notes_of_a_run() -> dict[str, str]:
    """Implementations by operation, as `chose` will note them from now on: one mapping, which fills while the run goes
    on."""
    global _noted
    _noted = {}
    return _noted
