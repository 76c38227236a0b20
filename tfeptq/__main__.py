"""`python -m tfeptq`."""

import sys

from tfeptq.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
