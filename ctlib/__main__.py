"""`python -m ctlib`."""

import sys

from ctlib.commands import main

if __name__ == "__main__":
    sys.exit(main())
