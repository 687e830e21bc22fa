"""Which clone of its snapshot this instance is: for programs that hold what must not be shared, and have no hook."""

import secrets

from .device import open_channel

_identity = secrets.token_hex(16)


def generation() -> int:
    """Restores between this instance and its first initialisation.

    0 where there was none (`isolation=process` too), and more after every restore: a program that has kept a value and
    finds another one goes on in a clone. Only whether it is another one says something: a function that was
    initialised on a base counts one more than one that was not.
    """
    return open_channel().generation()


def identity() -> str:
    """32 hexadecimal digits that no other instance has, whether clones of one snapshot or not. New after every restore."""
    return _identity


def renew() -> None:
    """Draw another identity: called by the runtime after a restore."""
    global _identity
    _identity = secrets.token_hex(16)
