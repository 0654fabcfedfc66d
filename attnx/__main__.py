"""``python -m attnx``."""

import sys

from attnx.cli import main

if __name__ == "__main__":
    sys.exit(main())
