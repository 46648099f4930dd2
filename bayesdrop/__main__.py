"""``python -m bayesdrop`` is the command ``bayesdrop``."""

from bayesdrop.cli import main

if __name__ == "__main__":
    main()
