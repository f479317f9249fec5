"""`python -m hubwire` is the command `hubwire`."""

from __future__ import annotations

import sys

from hubwire.cli import main

sys.exit(main())
