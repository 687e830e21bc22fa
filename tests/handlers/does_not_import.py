"""Needs what nobody has."""

import a_module_that_nobody_has  # type: ignore[import-not-found] # noqa: F401


def handler(_event: object, _context: object) -> None:
    """Never reached."""
