"""Which implementation ran is told to the run that it ran in."""

from rlx.kernels.base import Impl, chose, notes_of_a_run


def test_a_run_is_told_what_ran_while_it_did() -> None:
    first = notes_of_a_run()
    assert first == {}
    assert chose("scan", Impl.torch) is Impl.torch
    assert chose("scan", Impl.fla) is Impl.fla
    second = notes_of_a_run()
    chose("experts", Impl.reference)
    assert (first, second) == ({"scan": "fla"}, {"experts": "reference"})
