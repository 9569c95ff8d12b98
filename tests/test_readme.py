"""What the README shows works: the task that it adds in one file."""

import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import environment

README = Path(__file__).resolve().parents[1] / "README.md"
CHECK = """
from rlx.types import Split
task = MineConfig().build()
for split in Split:
    for index in range(50):
        example = task.example(split, index)
        assert example == task.example(split, index)
        assert task.verify(example, example.solution).correct
        assert not task.verify(example, example.solution + "0").correct
        assert not task.verify(example, "__import__('os')").correct
seen = {split: {task.example(split, n).id for n in range(200)} for split in Split}
assert sum(map(len, seen.values())) == len(set.union(*seen.values()))
other = MineConfig(seed=1).build()
for split in Split:
    assert ([other.example(split, n) for n in range(9)] == [task.example(split, n) for n in range(9)]) == (
        split is not Split.train
    )
"""


def test_the_task_that_the_readme_adds(tmp_path: Path):
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    code = "\n".join(line.removeprefix("   ") for line in block.splitlines())
    (tmp_path / "mine.py").write_text(code + CHECK)
    done = subprocess.run(
        [sys.executable, "mine.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_commands_name_what_there_is():
    from rlx.options import ROOMS, discover

    for group, name in re.findall(r"\b(\w+)=([a-z]\w*)\b", README.read_text()):
        if group in ROOMS and name not in ("null", "mine"):
            assert name in discover(group), f"README names {group}={name}"


def test_a_shell_reads_the_commands():
    for block in re.findall(r"^```\n(.*?)```", README.read_text(), flags=re.DOTALL | re.MULTILINE):
        if not re.search("^(rlx|make|python) ", block, flags=re.MULTILINE):
            continue
        text = re.sub(r"<(\w+)>", r"\1", block)  # places to fill in
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done.stderr + block
