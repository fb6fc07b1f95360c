"""``python -m recast_server``."""

import sys

from recast_server.main import main

if __name__ == "__main__":
    sys.exit(main())
