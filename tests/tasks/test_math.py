"""Math: formats, their verifier and what is read from files, against rules and texts written out here."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any

import pytest

import rlx.tasks.math as module
from rlx.errors import ConfigError
from rlx.tasks.math import LONGEST, Math, MathConfig
from rlx.tasks.math_traces import FORMATS, Trace, write
from rlx.tasks.math_words import SCENES, Problem, Rule, Slot, Story, key_of, tell
from rlx.types import Example, Outcome, Split, Verdict

TEXT = (
    "Anna collected 24 coins. Ben collected half as many coins as Anna. "
    "How many coins did Anna and Ben collect in total?"
)
STEPS = "Ben collected 24 / 2 = 12 coins.\nIn total that is 24 + 12 = 36.\n#### 36"
MARKED = "Ben collected 24 / 2 = <<24/2=12>>12 coins.\nIn total that is 24 + 12 = <<24+12=36>>36.\n#### 36"
LINES = "anna_coins = 24\nben_coins = anna_coins / 2\n"
FUNCTION = (
    f'def simple_math_problem():\n    """\n    {TEXT}\n    """\n    anna_coins = 24\n    ben_coins = anna_coins / 2\n'
    "    result = anna_coins + ben_coins\n    return result"
)
TAGGED = (
    f"Let's solve this problem using Python code.\n<llm-code>\n{LINES}anna_coins + ben_coins\n</llm-code>\n"
    "So the answer is \\boxed{36}"
)


def math(**fields: Any) -> Math:
    return MathConfig(**fields).build()


def problem(answer: object) -> Example:
    return Example(id="", prompt="", solution="", truth=str(answer))


def found(text: str, answer: object = 36, **fields: Any) -> tuple[str, str, float]:
    """What a completion is, the format it is in, and whether its program ran."""
    verdict = math(**fields).verify(problem(answer), text)
    forms = [name for name, share in verdict.measures.items() if name.startswith("format_") and share == 1]
    assert len(verdict.measures) == 5 and len(forms) <= 1
    return verdict.outcome.value, "".join(forms).removeprefix("format_"), verdict.measures["runs"]


# Solutions


def test_worked_example() -> None:
    rules = (Rule("given", (), (24,)), Rule("part", (0,), (2,)))
    question = Rule("total", (0, 1))
    made = Problem(rules, (24, 12), question, 36, 2, 2, 2, key_of(rules, question))
    scene = next(scene for scene in SCENES if scene.verb == "collected")
    story = Story(scene, (Slot("Anna", "coins", "coin"), Slot("Ben", "coins", "coin")), TEXT)
    written = [write(made, story, trace, calculator=False, docstring=True) for trace in FORMATS]
    assert written == [STEPS, FUNCTION, TAGGED, "#### 36"]
    assert write(made, story, Trace.text, calculator=True, docstring=True) == MARKED
    short = write(made, story, Trace.code, calculator=False, docstring=False)
    assert short == re.sub(r'    """.*"""\n', "", FUNCTION, flags=re.DOTALL)
    documented = module.__doc__ or ""
    assert made.key in documented
    assert tell(made, shuffle=False, random=Random(0)).text.endswith("?")
    for text in (TEXT, STEPS, MARKED, TAGGED, FUNCTION.replace(TEXT, f"{TEXT[:24]} [... the rest of the question]")):
        assert "\n".join(f"    {line}" for line in text.split("\n")) in documented


def test_an_example_stays_what_it_is() -> None:
    """A changed generator is a decision: raise the option's version with it."""
    example = math().example(Split.test, 5)
    assert example.id == "math/total(more(part(6,2),46),part(6,2))"
    assert dict(example.difficulty) == {"operations": 3, "depth": 3}
    assert example.prompt == (
        "Kenji has 46 more comics than Omar. Noah has 6 comics. If Noah's comics were split into 2 equal groups, each "
        "group would have as many comics as Omar has. How many comics do Kenji and Omar have in total?\n\n"
    )
    assert example.solution == (
        "Omar has 6 / 2 = 3 comics.\nKenji has 3 + 46 = 49 comics.\nIn total that is 49 + 3 = 52.\n#### 52"
    )


def test_another_process_makes_the_same_examples() -> None:
    code = (
        "from rlx.tasks.math import MathConfig, Split\nfrom rlx.tasks.base import stable_hash\n"
        "task = MathConfig(distractors=2).build()\n"
        "print(stable_hash([task.example(split, index) for split in Split for index in range(20)]))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


@pytest.mark.parametrize("trace", FORMATS, ids=lambda trace: trace.name)
def test_problems_and_words_do_not_depend_on_the_format(trace: Trace) -> None:
    plain, other = math(), math(trace=trace, calculator=True, docstring=False)
    for index in range(30):
        a, b = plain.example(Split.train, index), other.example(Split.train, index)
        assert (a.id, a.prompt, a.truth, a.difficulty) == (b.id, b.prompt, b.truth, b.difficulty)
        assert found(b.solution, a.truth) == ("correct", trace.name, float(trace in (Trace.code, Trace.tagged)))


def test_steps_are_arithmetic_and_end_with_the_answer() -> None:
    """Every equation of a text solution holds, and there are as many signs as operations."""
    task = math(calculator=True, max_operations=8, distractors=1)
    for index in range(200):
        example = task.example(Split.train, index)
        marks = re.findall(r"([^ .\n]*(?: [-+*/] [^ .\n]+)*) = <<([-+*/0-9]+)=([0-9]+)>>([0-9]+)", example.solution)
        assert len(marks) == example.solution.count("=<<") + example.solution.count("= <<")
        for expression, inside, value, shown in marks:
            assert expression.replace(" ", "") == inside and value == shown
            assert eval(inside) == int(value)  # digits and signs, by the pattern
        assert sum(len(re.findall(r"[-+*/]", inside)) for _, inside, _, _ in marks) == example.difficulty["operations"]
        assert example.solution.endswith(f"\n#### {example.truth}")


def test_one_thing_is_singular() -> None:
    singulars = {thing[1] for scene in SCENES for thing in scene.things} | {"bag"}
    seen: Counter[bool] = Counter()
    task = math(max_operations=3, max_given=9, max_number=20)
    for index in range(300):
        solution = task.example(Split.train, index).solution
        for number, things in re.findall(r"= ([0-9]+) ([a-z ]+)\.$", solution, re.MULTILINE):
            assert (things in singulars) == (number == "1"), solution
            seen[number == "1"] += 1
    assert min(seen[True], seen[False]) > 20


def test_mixed_has_the_shares_that_are_asked_for() -> None:
    shares = {"text": 3.0, "code": 5.0, "tagged": 0.0, "answer": 2.0}
    task = math(trace=Trace.mixed, shares=shares, max_operations=6)
    seen = Counter(
        found(example.solution, example.truth)[1]
        for example in (task.example(Split.train, index) for index in range(2000))
    )
    assert set(seen) == {"text", "code", "answer"}
    for name, count in seen.items():
        assert abs(count / 2000 - shares[name] / 10) < 0.045  # four standard errors


def test_a_problem_is_always_written_in_one_format() -> None:
    """Whatever the seed: short problems come again."""
    forms: dict[str, set[str]] = {}
    again = 0
    for seed in range(2):
        task = math(trace=Trace.mixed, seed=seed, min_operations=1, max_operations=1, max_given=9, max_number=20)
        for index in range(300):
            example = task.example(Split.train, index)
            again += example.id in forms
            forms.setdefault(example.id, set()).add(found(example.solution, example.truth)[1])
    assert again > 100
    assert all(len(each) == 1 for each in forms.values())
    assert len(set().union(*forms.values())) == 3


def test_a_share_of_one_is_that_format_alone() -> None:
    task = math(trace=Trace.mixed, shares={"text": 0.0, "code": 0.0, "tagged": 2.0})
    assert {found(task.example(Split.train, i).solution, task.example(Split.train, i).truth)[1] for i in range(20)} == {
        "tagged"
    }


# The verifier, by the rules of its module

BAD_BLOCK = TAGGED.replace("anna_coins / 2", "solve(x)")
BAD_FUNCTION = FUNCTION.replace("anna_coins / 2", "anna.coins")

CASES = {
    "steps": (STEPS, "correct", "text", 0),
    "marks": (MARKED, "correct", "text", 0),
    "box": ("It is 36, so \\boxed{36}.", "correct", "text", 0),
    "words": ("24 + 12 = 36. The answer is 36.", "correct", "text", 0),
    "fraction": ("The answer is 72/2.", "correct", "text", 0),
    "wrong steps": (STEPS[:-1] + "5", "wrong", "text", 0),
    "answer": ("#### 36", "correct", "answer", 0),
    "answer with blanks": ("#### 36 \n", "correct", "answer", 0),
    "wrong answer": ("#### 63", "wrong", "answer", 0),
    "nothing": ("", "malformed", "", 0),
    "no number": ("I do not know.", "malformed", "", 0),
    "function": (FUNCTION, "correct", "code", 1),
    "function that is wrong": (FUNCTION.replace("24", "26"), "wrong", "code", 1),
    "function after prose": (f"Here it is.\n\n{FUNCTION}", "correct", "code", 1),
    "function in a fence": (f"```python\n{FUNCTION}\n```", "correct", "code", 1),
    "last function": (f"{FUNCTION.replace('24', '26')}\n\n{FUNCTION}", "correct", "code", 1),
    "first function": (f"{FUNCTION}\n\n{FUNCTION.replace('24', '26')}", "wrong", "code", 1),
    "float": ("def f():\n    return 0.1 * 360.0", "correct", "code", 1),
    "function that does not run": (BAD_FUNCTION, "malformed", "code", 0),
    "function that does not run, and text": (f"{BAD_FUNCTION}\n#### 36", "correct", "code", 0),
    "text, and function that does not run": (f"#### 36\n{BAD_FUNCTION}", "correct", "code", 0),
    "number of a program that does not run": ("def f():\n    return x * 36", "malformed", "code", 0),
    "cut function": (FUNCTION[: FUNCTION.index("result")], "malformed", "code", 0),
    "no def": ("The default, definitely: 36", "correct", "text", 0),
    "block": (TAGGED, "correct", "tagged", 1),
    "block alone": (TAGGED.rpartition("\n")[0], "correct", "tagged", 1),
    "block that is wrong": (TAGGED.replace("24", "26"), "wrong", "tagged", 1),
    "last block": (f"{TAGGED.replace('24', '26')}\n{TAGGED}", "correct", "tagged", 1),
    "block that does not run": (BAD_BLOCK, "correct", "tagged", 0),
    "block that does not run, and a function": (f"{BAD_BLOCK}\n{FUNCTION}", "correct", "code", 1),
    "block and function": (f"{FUNCTION.replace('24', '26')}\n{TAGGED}", "correct", "tagged", 1),
    "number of a block that does not run": ("<llm-code>\nx * 36\n</llm-code>", "malformed", "tagged", 0),
    "block that ends in no value": (
        TAGGED.replace("\nanna_coins + ben", "\nx = anna_coins + ben"),
        "correct",
        "tagged",
        0,
    ),
    "open block": (TAGGED[: TAGGED.index("</")], "malformed", "tagged", 0),
    "closed only": ("</llm-code> 36", "correct", "text", 0),
    "tags in another order": ("</llm-code>\n36\n<llm-code>\n", "correct", "tagged", 0),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("strict", [True, False])
def test_completions_are_told_and_judged(name: str, strict: bool) -> None:
    text, *expected = CASES[name]
    assert found(text, strict=strict) == tuple(expected)


@pytest.mark.parametrize(
    "text",
    [
        TAGGED.replace("{36}", "{35}"),
        TAGGED.replace("{36}", "{36"),
        f"{TAGGED.rpartition(chr(10))[0]}\nSo that is it.",
        f"{FUNCTION}\n#### 35",
        f"{FUNCTION}\n\nand so on",
        f"{FUNCTION}\n```\nThe answer is 35.",
    ],
)
def test_text_after_a_program_has_to_agree_where_that_is_asked(text: str) -> None:
    outcome, form, runs = found(text, strict=True)
    assert (outcome, runs) == ("wrong", 1)
    assert found(text, strict=False) == ("correct", form, 1)
    agrees = text.replace("35", "36").replace("{36", "{36}").replace("}}", "}").replace("that is it", "36")
    assert found(agrees.replace("and so on", "36")) == ("correct", form, 1)


def test_a_fraction_is_an_answer_of_a_program() -> None:
    for gold in ("7/2", "3.5", "\\frac{7}{2}"):
        assert found("def f():\n  return 7 / 2", gold) == ("correct", "code", 1)
    assert found("def f():\n  return 3.4999999", "3.5") == ("wrong", "code", 1)


def test_long_text_is_not_read() -> None:
    task = math()
    assert task.verify(problem(36), "\n" * (LONGEST - 7) + "#### 36").correct
    verdict = task.verify(problem(36), "\n" * (LONGEST - 6) + "#### 36")
    assert verdict.outcome is Outcome.malformed and not verdict.measures


def test_random_texts_are_verdicts() -> None:
    random = Random(0)
    parts = ["<llm-code>", "</llm-code>", "\ndef f():\n", "  return ", "36", "####", "\\boxed{", "}", " ", "\n", "x",
             "1/0", "if 1:\n", "The answer is ", "```", "def ", '"""', "=", "(", "$", "%", "-", ",", "."]  # fmt: skip
    task = math()
    seen = Counter(
        task.verify(problem(36), "".join(random.choices(parts, k=random.randint(1, 14)))).outcome for _ in range(5000)
    )
    assert set(seen) == {Outcome.correct, Outcome.wrong, Outcome.malformed}


# Chance and the short cut


def test_chance_is_one_over_the_answers_there_are() -> None:
    """Drawn evenly from 0 to `max_number`, by counting."""
    task = math(max_number=60)
    example = task.example(Split.train, 0)
    right = sum(task.verify(example, f"#### {answer}").correct for answer in range(61))
    assert task.chance(example) == pytest.approx(right / 61)


def test_the_short_cut_adds_what_is_in_the_question() -> None:
    task = math()
    example = Example(id="", prompt="Ann has 3 cows, 1,200 hens and 10 of 3rd. " + "9" * 400, solution="", truth="1216")
    assert task.guess(example) == "#### 1216" and task.verify(example, task.guess(example)).correct
    examples = [task.example(Split.test, index) for index in range(300)]
    share = sum(task.verify(example, task.guess(example)).correct for example in examples) / 300
    assert 0.02 < share < 0.2


# Files


def row(n: int) -> dict[str, Any]:
    working = f"They lay {n}*3=<<{n}*3={n * 3}>>{n * 3} eggs."
    return {"question": f"Ann\u2019s {n} hens lay 3 eggs each. How many eggs?", "answer": f"{working}\n#### {n * 3}"}


PROBLEMS = [row(n) for n in range(2, 402)]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """As GSM8K's: 300 in train, of which 20 are in test too, and 100 more in test."""
    write_rows(tmp_path / "data" / "train.jsonl", PROBLEMS[:300])
    write_rows(tmp_path / "data" / "test.jsonl", PROBLEMS[280:])
    return str(tmp_path / "data")


def every(task: Math, split: Split) -> list[Example]:
    return [task.example(split, index) for index in range(task.size(split) or 0)]


def test_a_folder_keeps_its_splits(folder: str) -> None:
    task = math(path=folder)
    parts = {split: every(task, split) for split in Split}
    assert [example.truth for example in parts[Split.test]] == [str(3 * n) for n in range(282, 402)]
    ids = [{example.id for example in part} for part in parts.values()]
    assert len(ids[0] | ids[1]) == 280 and not ids[0] & ids[1] and not (ids[0] | ids[1]) & ids[2]
    assert ids[1]
    first = parts[Split.test][0]
    assert first.prompt == "Ann's 282 hens lay 3 eggs each. How many eggs?\n\n"
    assert first.solution == "They lay 282*3=846 eggs.\n#### 846"
    marked = math(path=folder, calculator=True).example(Split.test, 0)
    assert marked.solution == "They lay 282*3=<<282*3=846>>846 eggs.\n#### 846"
    for part in parts.values():
        for example in part:
            assert task.verify(example, example.solution).correct
            assert not task.verify(example, example.solution[:-1]).correct
            assert task.chance(example) == 0
    words = set(task.words())
    assert {"hens", "Ann", "'", "7", "\n", "#"} <= words
    assert set(re.findall("[A-Za-z]+|[^A-Za-z]", first.prompt + first.solution)) <= words


def test_problems_of_files_may_be_answered_in_any_format(folder: str) -> None:
    task = math(path=folder)
    example = task.example(Split.test, 0)
    for text in ("def f():\n  return 282 * 3", "<llm-code>\n282 * 3\n</llm-code>", "It is \\boxed{846}"):
        assert task.verify(example, text).correct


def test_the_seed_orders_train_and_nothing_else(folder: str) -> None:
    first, same, other = (math(path=folder, seed=seed, train_examples=40) for seed in (0, 0, 1))
    assert first.size(Split.train) == 40
    ids = [[example.id for example in every(task, Split.train)] for task in (first, same, other)]
    assert ids[0] == ids[1] and set(ids[0]) != set(ids[2])
    whole = [example.id for example in every(math(path=folder), Split.train)]
    assert ids[0] == whole[:40] and len(set(whole)) == len(whole)
    for split in (Split.val, Split.test):
        assert every(first, split) == every(other, split)


def test_sizes_are_at_most_what_there_is(folder: str) -> None:
    task = math(path=folder, val_examples=2, test_examples=500)
    assert (task.size(Split.val), task.size(Split.test)) == (2, 120)
    with pytest.raises(IndexError):
        task.example(Split.test, 120)


def test_boxed_solutions_are_as_they_were(tmp_path: Path) -> None:
    rows = [
        {"problem": f"What is {n}+1?", "solution": f"It is $\\boxed{{{n + 1}}}$.", "level": f"Level {n % 5 + 1}"}
        for n in range(200)
    ]
    task = math(path=str(write_rows(tmp_path / "all.jsonl", rows)))
    seen = [example for split in Split for example in every(task, split)]
    assert len(seen) == 200
    for example in seen:
        assert re.fullmatch(r"It is \$\\boxed\{[0-9]+\}\$\.", example.solution)
        assert task.verify(example, example.solution).correct
    assert {example.difficulty["level"] for example in seen} == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("def f():\n    return 72  # total", Outcome.correct),
        ("def f():\n    return 72\n    # done\n# end", Outcome.correct),
        ("def f():\n    return 72\n#### 71", Outcome.wrong),
        ("</llm-code> <llm-code>x\n#### 72", Outcome.malformed),
        ("</llm-code> #### 72 <llm-code>#### 71", Outcome.correct),
        ("</llm-code>\n#### 72\n<llm-code>x", Outcome.correct),
        ("#### 72\n<llm-code>\n71", Outcome.correct),
    ],
)
def test_comments_are_the_program_s_and_open_blocks_have_no_answer(text: str, outcome: Outcome) -> None:
    assert math().verify(Example("", "", "", truth="72"), text).outcome is outcome


def test_expressions_are_judged_by_what_they_mean(tmp_path: Path) -> None:
    """Rows as MATH has them, through math-verify where the answer is no number, from a thread too."""
    pytest.importorskip("math_verify")
    answers = ["\\frac{\\sqrt{8}}{2}", "x^2 + 2x + 1", "(1, 3)", "\\frac{3}{4}"]
    rows = [{"problem": f"Problem {n}?", "solution": f"It is $\\boxed{{{answers[n % 4]}}}$.", "level": "Level 3",
             "type": "Algebra"} for n in range(400)]  # fmt: skip
    task = math(path=str(write_rows(tmp_path / "all.jsonl", rows)))
    examples = {example.truth: example for example in every(task, Split.train)}
    assert set(examples) == set(answers) and examples["(1, 3)"].difficulty == {"level": 3, "subject": "Algebra"}
    equal = ["$\\boxed{\\sqrt{2}}$", "$\\boxed{(x+1)^2}$", "$\\boxed{(1,3)}$", "#### 0.75"]
    other = ["$\\boxed{\\sqrt{3}}$", "$\\boxed{(x-1)^2}$", "$\\boxed{(3,1)}$", "#### 0.76"]
    for truth, same, not_same in zip(answers, equal, other, strict=True):
        assert task.verify(examples[truth], same).correct, truth
        assert task.verify(examples[truth], not_same).outcome is Outcome.wrong, truth
    found: list[Verdict] = []
    thread = Thread(target=lambda: found.append(task.verify(examples["x^2 + 2x + 1"], "\\boxed{(1+x)^2}")))
    thread.start()
    thread.join(60)
    assert [verdict.correct for verdict in found] == [True]


def test_columns_may_be_named_and_what_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"frage": f"How many is {n} and 1?", "antwort": str(n + 1)} for n in range(100)]
    path = str(write_rows(tmp_path / "all.jsonl", [*rows, {"frage": "What is \u6f22?", "antwort": "3"}]))
    task = math(path=path, question_field="frage", answer_field="antwort")
    assert sum(len(every(task, split)) for split in Split) == 100
    assert "100 problems; left out: 1 not in ASCII" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="names a column"):
        math(answer_field="antwort")


def test_rows_without_working_are_answers(tmp_path: Path) -> None:
    rows = [{"question": f"Twice {n}?", "answer": 2 * n} for n in range(100)]
    task = math(path=str(write_rows(tmp_path / "all.jsonl", rows)))
    example = task.example(Split.test, 0)
    assert example.solution == f"#### {example.truth}"
    assert task.verify(example, example.solution).measures["format_answer"] == 1


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "all.jsonl", PROBLEMS[:100])
    before = {example.id for example in every(math(path=str(path)), Split.train)}
    write_rows(path, PROBLEMS[100:])
    assert not before & {example.id for example in every(math(path=str(path)), Split.train)}


def test_a_source_without_train_says_so_when_it_is_needed(tmp_path: Path) -> None:
    write_rows(tmp_path / "data" / "test.jsonl", PROBLEMS[:20])
    task = math(path=str(tmp_path / "data"))
    assert task.size(Split.test) == 20
    with pytest.raises(ConfigError, match="has no train problems"):
        task.example(Split.train, 0)


GSM8K = Path(__file__).resolve().parents[3] / "shared" / "data" / "gsm8k"


@pytest.mark.skipif(not GSM8K.is_dir(), reason="GSM8K is not beside this checkout (shared/data/gsm8k)")
def test_all_of_gsm8k_can_be_read() -> None:
    """7,473 problems in train and 1,319 in test (arXiv 2110.14168), each of which its own solution answers."""
    task = math(path=str(GSM8K), test_examples=1319)
    parts = {split: every(task, split) for split in Split}
    assert len(parts[Split.test]) == 1319
    assert len(parts[Split.train]) + len(parts[Split.val]) == 7473
    for part in parts.values():
        assert all(task.verify(example, example.solution).correct for example in part)


# Settings


@pytest.mark.parametrize(
    "fields, name",
    [
        ({"min_operations": 0}, "task.min_operations"),
        ({"min_operations": 5, "max_operations": 4}, "task.max_operations"),
        ({"max_operations": 13}, "task.max_operations"),
        ({"distractors": -1}, "task.distractors"),
        ({"distractors": 13}, "task.distractors"),
        ({"max_given": 1}, "task.max_given"),
        ({"max_given": 50, "max_number": 40}, "task.max_number"),
        ({"shares": {"text": -1.0}}, "task.shares"),
        ({"shares": {"text": 0.0}}, "task.shares"),
        ({"shares": {"text": float("nan")}}, "task.shares"),
        ({"shares": {"prose": 1.0}}, "task.shares"),
        ({"path": "data", "trace": Trace.code}, "task.trace"),
        ({"path": "data", "distractors": 1}, "task.distractors"),
        ({"path": "data", "shares": {"text": 1.0}}, "task.shares"),
        ({"val_examples": 0}, "task.val_examples"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_one_line(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError) as raised:
        MathConfig(**fields)
    assert name in str(raised.value) and "\n" not in str(raised.value)


def test_the_door_trains_on_a_file(rlx: Callable[..., Any], folder: str) -> None:
    done = rlx("stage=pretrain", "task=math", f"task.path={folder}", "scale=smoke", "stage.steps=1",
               "trainer.threads=1", "stage.batch_tokens=256", "stage.row_tokens=128",
               "stage.val_tokens=256")  # fmt: skip
    assert done.code == 0, done.err
    done = rlx("stage=pretrain", "task=math", "task.path=nothing", "scale=smoke")
    assert done.code == 2 and "nothing" in done.err and done.err.count("\n") == 1
    before = sorted(Path("runs").iterdir())
    Path("broken.jsonl").write_text('{"question": 3\n')
    done = rlx("stage=pretrain", "task=math", "task.path=broken.jsonl", "scale=smoke")
    assert done.code == 2 and "broken.jsonl:1: expected a JSON object" in done.err and done.err.count("\n") == 1
    assert sorted(Path("runs").iterdir()) == before, "a file that cannot be read leaves no run"
