"""``python -m mi_metrics`` is the command line ``mi-metrics``."""

import sys

from mi_metrics.cli import main

if __name__ == "__main__":
    sys.exit(main())
