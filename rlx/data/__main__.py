"""`python -m rlx.data task=countdown --show 3 --out countdown`: what `rlx stage=data` does, with flags."""

import sys
from collections.abc import Sequence

from rlx.cli import main

FLAGS = {"--out": "stage.to", "--examples": "stage.examples", "--held-out": "stage.held_out", "--show": "stage.show",
         "--loss": "stage.loss"}  # fmt: skip


def arguments(typed: Sequence[str]) -> list[str]:
    """The command line of `rlx` that these arguments mean: its own ones stay as they are."""
    found, rest = ["stage=data"], iter(typed)
    for text in rest:
        name, mark, value = text.partition("=")
        if text == "--ids":
            found.append("stage.ids=true")
        elif name in FLAGS:
            found.append(f"{FLAGS[name]}={value if mark else next(rest, '')}")
        else:
            found.append(text)
    return found


if __name__ == "__main__":
    sys.argv = ["rlx", *arguments(sys.argv[1:])]
    main()
