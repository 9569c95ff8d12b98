"""Processes that carry a plan out on this machine, as others see and stop them."""

import os

import pytest

from rlx.errors import BusyError, ConfigError, RunError
from rlx.plans import drivers
from rlx.plans.drivers import ask_to_stop, driving, to_come
from rlx.plans.submissions import key_of
from tests.plans.made import planned, saved

pytestmark = pytest.mark.usefixtures("here")


def test_a_process_of_another_container_is_not_stopped_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number is another process's here."""
    plan = saved([planned(0)])
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(number))
    with driving(plan):
        monkeypatch.setattr(drivers, "namespace", lambda: "pid:[1]")
        with pytest.raises(ConfigError, match="in another container; type the command there"):
            ask_to_stop(plan.folder)
    assert drivers.signal.SIGTERM not in killed


def test_a_process_of_another_user_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = saved([planned(0)])

    def refuse(pid: int, number: int) -> None:
        if number:
            raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "kill", refuse)
    with driving(plan), pytest.raises(RunError, match="is another user's process, and is not stopped"):
        ask_to_stop(plan.folder)


def test_who_comes_second_leaves_the_first_alone() -> None:
    plan = saved([planned(0)])
    with driving(plan):
        with pytest.raises(BusyError), driving(plan):
            pass
        assert to_come(plan.folder) == {key_of(planned(0).run)}
    assert list((plan.folder / "drivers").iterdir()) == []
