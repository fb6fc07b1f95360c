"""``python -m recast_trainer.data``: ``recast data`` where nothing but this package is installed."""

import sys

from recast_trainer.data.commands import main

if __name__ == "__main__":
    sys.exit(main())
