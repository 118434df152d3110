"""The `svl` command; `python -m svl_core` is the same."""

import sys

from svl_core.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
