"""What becomes of a sweep or a study: python scripts/plan.py status|watch|retry|cancel|collect <plan>."""

import sys

from rlx.plans.__main__ import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
