"""`python -m wan_alpha`."""

import sys

from wan_alpha.cli import main

if __name__ == "__main__":
    sys.exit(main())
