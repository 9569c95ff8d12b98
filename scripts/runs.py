"""What runs there are, and what can go of them: python scripts/runs.py --help."""

import sys

from rlx.runs.__main__ import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
