"""`python -m tfeptq`."""

import sys

from tfeptq.cli import main

if __name__ == "__main__":
    sys.exit(main())
