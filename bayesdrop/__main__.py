"""``python -m bayesdrop`` is the command ``bayesdrop``."""

import sys

from bayesdrop.cli import main

if __name__ == "__main__":
    sys.exit(main())
