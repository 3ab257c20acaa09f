"""`python -m wan_alpha`, and `accelerate launch -m wan_alpha` for several processes."""

import sys

from wan_alpha.cli import main

if __name__ == "__main__":
    sys.exit(main())
