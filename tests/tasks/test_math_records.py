"""Files of problems become records: fields, divisions, characters, and what is left out."""

import ast
import json
import operator
import re
from fractions import Fraction
from pathlib import Path

import pytest

from rlx.errors import ConfigError
from rlx.tasks import math_records as module
from rlx.tasks.math_answers import final_answer, number, same_answer
from rlx.tasks.math_records import CALCULATOR, Record, plain_text, read_records
from rlx.types import Split

GSM8K = Path(__file__).resolve().parents[3] / "shared" / "data" / "gsm8k"
ROWS = [
    {"question": f"What is {n} + {n}?", "answer": f"{n}+{n} = <<{n}+{n}={2 * n}>>{2 * n}\n#### {2 * n}"}
    for n in range(200)
]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def questions(records, split):
    return [record.question for record in records.parts[split]]


def test_a_row_as_gsm8k_has_it(tmp_path):
    found = read_records(write(tmp_path / "test.jsonl", ROWS[24:25]))
    assert [*found.parts[Split.train]] == [
        Record("What is 24 + 24?", "48", "24+24 = <<24+24=48>>48", {"steps": 1}),
    ]
    assert found.dropped == {}


def test_rows_as_math_has_them(tmp_path):
    folder = tmp_path / "MATH"
    for split, subject, level, answer in (
        ("train", "Algebra", "Level 3", "\\frac{1}{2}"),
        ("test", "Geometry", "Level 5", "90^\\circ"),
    ):
        row = {"problem": f"How large in {subject}?", "level": level, "type": subject}
        row["solution"] = f"It is $x=0$, no, $\\boxed{{{answer}}}$."
        path = folder / split / subject.lower() / "1.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(row))
    found = read_records(str(folder))
    (record,) = found.parts[Split.test]
    assert record.answer == "90^\\circ" and record.solution.endswith("no, $\\boxed{90^\\circ}$.")
    assert record.difficulty == {"level": 5, "subject": "Geometry"}
    assert [record.answer for record in found.parts[Split.train]] == ["\\frac{1}{2}"]


FORMS = {
    "numbers": ({"question": "q", "answer": 7}, "7", ""),
    "halves": ({"question": "q", "answer": 0.5}, "0.5", ""),
    "both": (
        {"problem": "q", "answer": "3\\pi", "solution": "so \\boxed{3\\pi}", "subject": "X"},
        "3\\pi",
        "so \\boxed{3\\pi}",
    ),
    "prose": ({"query": "q", "response": "Two. The answer is: 2"}, "2", "Two. The answer is: 2"),
    "in the answer": ({"prompt": "q", "answer": "It is 2.\nThe answer is 3."}, "3", "It is 2.\nThe answer is 3."),
    "expected": ({"problem": "q", "expected_answer": "1,234", "generated_solution": "..."}, "1234", "..."),
    "a pair": ({"problem": "q", "answer": "1,23"}, "1,23", ""),
}


@pytest.mark.parametrize("row, answer, solution", FORMS.values(), ids=FORMS.keys())
def test_rows_of_other_forms(tmp_path, row, answer, solution):
    ((found,), *_) = [part for part in read_records(write(tmp_path / "a.jsonl", [row])).parts.values() if part]
    assert (found.question, found.answer, found.solution) == ("q", answer, solution)


def test_fields_of_other_names(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"frage": "q", "antwort": "7", "question": "no", "answer": "no"}])
    (found,) = read_records(path, question="frage", answer="antwort").parts[Split.train]
    assert found[:2] == ("q", "7")
    with pytest.raises(
        ConfigError, match=r"row 1 has no question: expected fräge, got frage\|antwort\|question\|answer"
    ):
        read_records(path, question="fräge")
    with pytest.raises(ConfigError, match=r"row 1 has no answer: expected x\|solution\|"):
        read_records(path, answer="x")
    with pytest.raises(ConfigError, match="row 1: question is a list; expected text"):
        read_records(write(tmp_path / "b.jsonl", [{"question": ["q"], "answer": "1"}]))


def test_a_csv_file(tmp_path):
    (tmp_path / "a.csv").write_text('question,answer\n"How many, in all?","1,200"\n')
    assert read_records(str(tmp_path / "a.csv")).parts[Split.train][0][:2] == ("How many, in all?", "1200")


def test_a_division_is_kept_and_train_gives_way(tmp_path):
    again = {"question": "what  is 7 + 7? ", "answer": "14"}
    write(tmp_path / "train.jsonl", [*ROWS[:100], again])
    write(tmp_path / "test.jsonl", [ROWS[7], *ROWS[100:]])
    found = read_records(str(tmp_path))
    test, val, train = (questions(found, split) for split in (Split.test, Split.val, Split.train))
    assert test == [ROWS[7]["question"], *(row["question"] for row in ROWS[100:])]
    assert set(val) | set(train) == {row["question"] for row in ROWS[:100]} - {ROWS[7]["question"]}
    assert found.dropped == {"seen before": 2}
    assert len(val) + len(train) == 99 and 1 <= len(val) <= 12
    write(tmp_path / "dev.jsonl", ROWS[:3])
    found = read_records(str(tmp_path))
    assert questions(found, Split.val) == [row["question"] for row in ROWS[:3]]
    assert len(found.parts[Split.train]) == 96


def test_one_file_is_divided_by_its_questions(tmp_path):
    found = read_records(write(tmp_path / "a.jsonl", ROWS))
    turned = read_records(write(tmp_path / "b.jsonl", [*reversed(ROWS)]))
    for split in Split:
        assert sorted(questions(found, split)) == sorted(questions(turned, split))
    held_out = len(found.parts[Split.val]), len(found.parts[Split.test])
    assert all(1 <= count <= 20 for count in held_out) and sum(held_out) + len(found.parts[Split.train]) == 200
    few = read_records(write(tmp_path / "c.jsonl", ROWS[:4]))
    assert [len(few.parts[split]) for split in Split] == [2, 1, 1]


def test_a_source_that_is_all_test_stays_that(tmp_path):
    write(tmp_path / "test.jsonl", ROWS[:50])
    assert [len(read_records(str(tmp_path)).parts[split]) for split in Split] == [0, 0, 50]


def test_what_is_left_out_is_counted(tmp_path, monkeypatch):
    rows = [
        *ROWS[:40],
        {"question": "How many 漢字?", "answer": "2"},
        {"question": "How many?", "answer": "many,\nor few"},
        {"question": "How long?", "answer": "1" * 301},
        {"question": "How long? " * 1001, "answer": "1"},
        {"question": " ", "answer": "1"},
        ROWS[0],
    ]
    found = read_records(write(tmp_path / "a.jsonl", rows))
    assert found.dropped == {
        "not in ASCII": 1, "without an answer": 1, "too long": 2, "without a question": 1, "seen before": 1
    }  # fmt: skip
    assert sum(map(len, found.parts.values())) == 40
    assert found.parts[Split.train][0].difficulty == {"steps": 1}
    with pytest.raises(ConfigError, match="has no record that can be used: 1 not in ASCII"):
        read_records(write(tmp_path / "b.jsonl", rows[40:41]))
    with pytest.raises(ConfigError, match="has no record that can be used: it is empty"):
        read_records(write(tmp_path / "c.jsonl", []))
    monkeypatch.setattr(module, "MOST", 30)
    with pytest.raises(ConfigError, match=r"a\.jsonl, row 31: more than 30 records"):
        read_records(str(tmp_path / "a.jsonl"))


def test_difficulty_is_what_all_have_and_says_little(tmp_path):
    rows = [{"question": f"q{n}", "answer": "1", "level": n % 5, "type": str(n)} for n in range(40)]
    assert read_records(write(tmp_path / "a.jsonl", rows)).parts[Split.train][0].difficulty.keys() == {"level"}
    del rows[30]["level"]
    assert read_records(write(tmp_path / "b.jsonl", rows)).parts[Split.train][0].difficulty == {}


def test_text_is_plain():
    for text, expected in {
        "“It’s 2 × 3 – 1 = 5…”": '"It\'s 2 * 3 - 1 = 5..."',
        "5 − 3 ÷ 2\u00a0m²\u200b": "5 - 3 / 2 m^2",
        "2½ cups, ¾ left, ⅓": "2 1/2 cups, 3/4 left, 1/3",
        "€5 or 5¢ at 90°, √2 ≤ π": "EUR 5 or 5 cents at 90 degrees, sqrt2 <= pi",
        "José’s crème brûlée, ＡＢ１２": "Jose's creme brulee, AB12",
        " a\r\nb\tc\u2028d\n": "a\nb c\nd",
        "А": "A",
        "漢": None,
        "\x07": None,
        "∫": None,
    }.items():
        assert plain_text(text) == expected
    assert all(plain_text(character) is not None for characters in module.PLAIN for character in characters)
    assert all(plain is not None and plain.isascii() for plain in module.PLAIN.values())


OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


def value(node):
    """The exact value of a calculator's expression."""
    if isinstance(node, ast.BinOp):
        return OPERATIONS[type(node.op)](value(node.left), value(node.right))
    if isinstance(node, ast.UnaryOp):
        return -value(node.operand)
    return Fraction(str(node.value))


@pytest.mark.skipif(not GSM8K.is_dir(), reason="GSM8K is not beside this checkout (shared/data/gsm8k)")
def test_gsm8k():
    """7473 and 1319 problems (arXiv 2110.14168), all of which can be written, answered and calculated."""
    found = read_records(str(GSM8K))
    train, val, test = (found.parts[split] for split in Split)
    assert (len(train) + len(val), len(test), found.dropped) == (7473, 1319, {})
    assert 150 < len(val) < 320
    golds = [json.loads(line)["answer"] for line in (GSM8K / "test.jsonl").read_text().splitlines()]
    official = [re.search(r"#### (\-?[0-9\.\,]+)", gold)[1].replace(",", "") for gold in golds]  # of its authors
    assert [record.answer for record in test] == official
    marks = right = 0
    for record in (*train, *val, *test):
        assert final_answer(f"{record.solution}\n#### {record.answer}") == record.answer
        assert same_answer(record.answer, record.answer) and number(record.answer) == int(record.answer)
        assert not same_answer(record.answer, f"{record.answer}1")
        assert re.fullmatch(r"[ -~\n]+", record.question + record.solution)
        assert record.difficulty.keys() == {"steps"} and "####" not in record.solution
        calculators = CALCULATOR.findall(record.solution)
        assert len(calculators) == record.solution.count("<<") == record.solution.count(">>")
        for expression, result in calculators:
            marks += 1
            right += abs(
                value(ast.parse(re.sub(r"\b0+(?=[0-9])", "", expression), mode="eval").body) - number(result)
            ) < Fraction(1, 100)
    assert marks == 27998 and right > 0.98 * marks  # the others are rounded
