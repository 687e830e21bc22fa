"""`python -B -m nexus.guest.runtime`: the program of every instance."""

import sys

from . import modules

if __name__ == "__main__":
    modules.standard_first()
    from .program import main

    sys.exit(main())
