"""`python -m flowloom` is the `flowloom` command."""

import sys

from flowloom.cli.main import main

sys.exit(main())
