"""``python -m routesearch.cli``: the command where no console script is installed."""

import sys

from routesearch.cli.app import main

sys.exit(main())
