"""`native`: what the nexus-guest crate does for this package, or None where this interpreter cannot load it.

Everything works without it: each of its classes has a twin in Python, which also has what is not ordinary to itself, but for
Loans, without which bodies are copied. It is there because an SDK call goes through these few hundred lines each time, with cold caches.
"""

import os
import sys
from typing import Any

# "0" leaves it out: for comparison.
SWITCH = "NEXUS_NATIVE"

native: Any = None
# It uses CPython's stable interface as of 3.11; an older one would load it, and fail later.
if sys.implementation.name == "cpython" and sys.version_info >= (3, 11) and os.environ.get(SWITCH) != "0":
    try:
        from . import _native as native  # type: ignore[attr-defined,no-redef]
    except ImportError:  # another platform, or one without the interpreter's lock
        native = None
