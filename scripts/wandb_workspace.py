"""A W&B workspace for a plan, a study or some runs: python scripts/wandb_workspace.py --help."""

import sys

from rlx.runs.workspace import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
