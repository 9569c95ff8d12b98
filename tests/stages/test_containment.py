"""A task of a user's own whose verifier raises, hangs, dies and leaks: rl and eval go on, count it, and say it once."""

import json
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hydra.core.config_store import ConfigStore

from rlx import options, tasks
from rlx.evaluation.episodes import Player
from rlx.evaluation.judge import Judge
from rlx.tasks.base import stable_hash
from rlx.types import Failure, Outcome, Split, Verdict
from tests.stages.runs import place, record, rows

SOURCE = '''
import os
from dataclasses import dataclass
from rlx.options import option
from rlx.tasks.base import stable_hash
from rlx.tasks.countdown import Countdown, CountdownConfig
from rlx.types import Outcome, Verdict

SALT = 15896

@option("task", "unruly")
@dataclass(kw_only=True, slots=True)
class UnrulyConfig(CountdownConfig):
    """Countdown with a verifier that fails on most problems."""

    def build(self):
        return Unruly(self)

class Unruly(Countdown):
    def verify(self, example, completion):
        if not completion:
            return Verdict(Outcome.correct)
        match stable_hash(SALT, example.id) % 7:
            case 0:
                raise ValueError("cannot\\n  read this")
            case 1:
                return "correct"
            case 2:
                while True:
                    pass
            case 3:
                os._exit(1)
        print("judged")
        return Verdict(Outcome.correct if len(completion) % 2 else Outcome.wrong)
'''
YAML = "defaults:\n  - /schema/task@_here_: unruly\n  - _self_\n"
SMALL = ("task=unruly", "task.numbers=3", "scale=smoke", "trainer.threads=1", "task.verify_seconds=0.3",
         "init_from=random", "decode.max_tokens=6", "--config-dir=conf")  # fmt: skip
SALT = 15896
"""One at which the few problems of these runs have each failure once."""
KINDS = {0: "error", 1: "error", 2: "timeout", 3: "death"}


@pytest.fixture
def unruly(rlx, tmp_path, monkeypatch):
    """The door, which knows `task=unruly`, and what its verdicts were: lists of (example id, text, verdict)."""
    (tmp_path / "plugin").mkdir()
    (tmp_path / "plugin/unruly.py").write_text(SOURCE)
    (tmp_path / "conf/task").mkdir(parents=True)
    (tmp_path / "conf/task/unruly.yaml").write_text(YAML)
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path / "plugin")])
    seen: list[list[tuple[str, str, Any]]] = []
    monkeypatch.setattr(Player, "play", watched(Player.play, seen))
    yield rlx, seen
    sys.modules.pop("rlx.tasks.unruly", None)
    options._options.pop(("task", "unruly"), None)
    ConfigStore.instance().repo["schema"]["task"].pop("unruly.yaml", None)


def watched(function: Any, seen: list) -> Any:
    """`play` of completions that all have an end and no special token before it, so that the verifier is asked of
    each."""

    def play(player: Any, engine: Any, examples: Any, **asked: Any) -> Any:
        tokenizer, complete = player.tokenizer, engine.complete

        def completed(*given: Any, **more: Any) -> Any:
            done = complete(*given, **more)
            special = torch.isin(done.tokens, torch.tensor(sorted(tokenizer.special_ids)))
            plain = done.tokens.masked_fill(special, tokenizer.encode("7")[0])
            plain.scatter_(1, done.lengths[:, None] - 1, tokenizer.end_id)
            return replace(done, tokens=plain, finished=torch.ones_like(done.finished))

        engine.complete = completed
        try:
            played = function(player, engine, examples, **asked)
        finally:
            del engine.complete
        named = [examples[n // asked["samples"]].id for n in range(len(played.texts))]
        seen.append(list(zip(named, played.texts, played.verdicts, strict=True)))
        return played

    return play


def expected(found: list[tuple[str, str, Any]]) -> list[str]:
    """What the verifier makes of each text: how it fails, or the verdict."""
    by_text = [("correct" if len(text) % 2 or not text else "wrong", text) for _, text, _ in found]
    kinds = [KINDS.get(stable_hash(SALT, name) % 7) for name, _, _ in found]
    return [(kind if text and kind else verdict) for kind, (verdict, text) in zip(kinds, by_text, strict=True)]


def told(found: list[tuple[str, str, Any]]) -> list[str]:
    """The same of the verdicts that there were."""
    return [(verdict.failure or verdict.outcome).value for _, _, verdict in found]


def counts(found: list[tuple[str, str, Any]]) -> Counter[str]:
    kinds = Counter(expected(found))
    named = {"verifier/errors": kinds["error"] + kinds["timeout"] + kinds["death"],
             "verifier/timeouts": kinds["timeout"], "verifier/deaths": kinds["death"]}  # fmt: skip
    return Counter({name: count for name, count in named.items() if count or name == "verifier/errors"})


def counted(row: dict[str, Any], prefix: str = "") -> Counter[str]:
    return Counter({k.removeprefix(prefix): v for k, v in row.items() if k.startswith(f"{prefix}verifier/")})


def test_failures_on_turns_before_the_last_are_counted_and_the_first_is_named(door, monkeypatch):
    draws: list[list[tuple[str, Any]]] = []
    play = Player.play

    def assess(player: Any, example: Any, turn: Any) -> Verdict:
        fails = stable_hash(example.id, turn.text) % 3 == 0
        return Verdict(Outcome.malformed, f"no {turn.text!r}", failure=Failure.error if fails else None)

    def heard(*given: Any, **asked: Any) -> Any:
        found = play(*given, **asked)
        turns = [(each.example.id, turn.verdict) for each in found.episodes for turn in each.turns]
        draws.append([(name, verdict) for name, verdict in turns if verdict.failure])
        assert len(draws[-1]) > sum(verdict.failure is not None for verdict in found.verdicts)
        return found

    def first(found: list[tuple[str, Any]]) -> str:
        return f"which count as malformed: {found[0][1].detail}, first on {found[0][0]}"

    monkeypatch.setattr(Player, "play", heard)
    monkeypatch.setattr(Player, "assess", assess)
    talk = ("task=countdown", "task.numbers=3", "scale=smoke", "trainer.threads=1", "init_from=random",
            "environment=multi_attempt", "environment.attempts=2", "environment.least=2", "environment.turn_tokens=3",
            "decode.max_tokens=36")  # fmt: skip
    done = door(*talk, "stage=rl", "algorithm=grpo", "stage.steps=1", "stage.prompts=8", "algorithm.group_size=2",
                "stage.val_every=0", "stage.preflight_problems=8")  # fmt: skip
    assert done.code == 0, done.err
    ahead, step = draws
    assert f"failed on {len(ahead)} turns of 16 completions, {first(ahead)}" in done.out
    assert f"failed on {len(step)} turns, {first(step)}" in done.out
    assert rows(place(done.out))[0]["verifier/errors"] == len(step)
    done = door(*talk, "stage=eval", "stage.problems=8", "stage.samples=2")
    assert done.code == 0, done.err
    found = [*draws[2], *draws[3]]
    assert f"failed on {len(found)} turns of 24 completions, {first(found)}" in done.out
    assert json.loads((place(done.out) / "eval.json").read_text())["verifier"]["errors"] == len(found)


def test_rl_goes_on_counts_and_says_it_once(unruly):
    rlx, seen = unruly
    done = rlx(*SMALL, "stage=rl", "algorithm=grpo", "stage.steps=2", "stage.prompts=4", "algorithm.group_size=2",
               "stage.val_every=0", "stage.preflight_problems=4")  # fmt: skip
    assert done.code == 0, done.err
    run = place(done.out)
    ahead, *steps = seen
    assert len(steps) == 2 and all(told(found) == expected(found) for found in seen)
    assert {"error", "timeout", "death", "correct"} <= {kind for found in seen for kind in told(found)}
    assert [counted(row) for row in rows(run)] == [counts(found) for found in steps]
    kept = record(run)
    alarms = [line for line in done.out.splitlines() if "alarm: " in line and "verifier" in line]
    assert len(alarms) == 1 and alarms[0].split("alarm: ")[1] in kept["alarms"]
    name, _, verdict = next(each for each in steps[0] if each[2].failure)
    how = f"count as malformed: {verdict.detail}, first on {name}"
    assert f"{counts(steps[0])['verifier/errors']} completions, which {how}" in alarms[0]
    said = kept["preflight"]["said"]
    assert counted(kept["preflight"]) == counts(ahead)
    assert any(f"failed on {counts(ahead)['verifier/errors']} of 8 completions" in line for line in said)
    assert any("the verifier is passed without work: the empty text on 100% of 4 problems" in line for line in said)
    assert "judged" not in done.out


def test_eval_goes_on_and_counts(unruly):
    rlx, seen = unruly
    done = rlx(*SMALL, "stage=eval", "stage.problems=6", "stage.samples=1")
    assert done.code == 0, done.err
    run = place(done.out)
    assert len(seen) == 2 and all(told(found) == expected(found) for found in seen)
    both = [*seen[0], *seen[1]]
    found = json.loads((run / "eval.json").read_text())
    assert {f"verifier/{name}": n for name, n in found["verifier"].items()} == counts(both)
    assert counted(found["metrics"], "eval/unruly/") == counts(both)
    (alarm,) = [line.split("alarm: ")[1] for line in done.out.splitlines() if "alarm: " in line]
    assert f"failed on {counts(both)['verifier/errors']} of 12 completions" in alarm
    assert record(run)["alarms"] == [alarm]


def test_rows_after_a_hang_are_right(unruly):
    """Two rows of one problem that hangs, then two of one that is judged."""
    config_class = options.discover("task")["unruly"].config
    config = config_class(numbers=3, verify_seconds=0.3)
    task = config.build()
    drawn = [task.example(Split.train, index) for index in range(40)]
    hangs, judged = (next(each for each in drawn if stable_hash(SALT, each.id) % 7 == kind) for kind in (2, 5))
    judge = Judge(task, config)
    pairs = [(hangs, "1"), (judged, "1"), (hangs, "12"), (judged, "12")]
    verdicts = [judge.verify(example, text) for example, text in pairs]
    assert [verdict.failure for verdict in verdicts] == [Failure.timeout, None] * 2
    assert [verdict.outcome for verdict in verdicts] == [
        Outcome.malformed,
        Outcome.correct,
        Outcome.malformed,
        Outcome.wrong,
    ]
