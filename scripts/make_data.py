"""Documents of a task or a mixture, shown and written: python scripts/make_data.py task=countdown --show 3 --out DIR.

Everything else is as for `rlx`: `corpus=mixture 'corpus.sources={...}'`, `task.trace=dfs`, `--help`.
"""

import sys

from rlx.cli import main
from rlx.data.__main__ import arguments

if __name__ == "__main__":
    sys.argv = ["rlx", *arguments(sys.argv[1:])]
    main()
