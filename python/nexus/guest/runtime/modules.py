"""Whose modules are imported: the standard library's until the runtime is loaded, the function's first from then on.

As on Lambda, whose bootstrap has imported what it needs when it puts the task root first: a `json.py` of the function's
is no part of the runtime, and the handler's `import json` gives the standard one, which is loaded.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # nothing is imported before `standard_first` that the interpreter has not built in
    from collections.abc import Iterable, Iterator

# What the interpreter starts with (PYTHONPATH) is the runtime's directory alone; this names the function's, too.
_VARIABLE = "NEXUS_MODULE_PATH"
_PACKAGE = __name__.partition(".")[0]
_OWN = __file__.rpartition(f"/{_PACKAGE}/guest/")[0]
_THIRD_PARTY = ("site-packages", "dist-packages")

# The interpreter's own entries of `sys.path`.
_interpreters: list[str] = []
# Top-level modules that the runtime has loaded.
_loaded: frozenset[str] = frozenset()


def listed() -> list[str]:
    """The function's module path: directories that it names itself, its task root, its layers, the runtime's."""
    root = os.environ.get("LAMBDA_TASK_ROOT") or os.getcwd()
    path = os.environ.get(_VARIABLE) or os.environ.get("PYTHONPATH", "")
    return [os.path.normpath(os.path.join(root, entry)) for entry in path.split(os.pathsep) if entry]


def standard_first() -> None:
    """Until `function_first`: the standard library, then the function's path, then packages beside the interpreter."""
    names = listed()
    # `python -m` put the directory it was started in first.
    rest = sys.path if sys.flags.safe_path else sys.path[1:]
    at_start = {os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry}
    _interpreters[:] = [entry for entry in rest if entry not in at_start and entry not in names and entry != _OWN]
    third = next((i for i, entry in enumerate(_interpreters) if entry.endswith(_THIRD_PARTY)), len(_interpreters))
    sys.path[:] = [_OWN, *_interpreters[:third], *names, *_interpreters[third:]]


def loaded() -> None:
    """What is loaded now, the runtime needs: it stays what it is."""
    global _loaded
    _loaded = frozenset(name.partition(".")[0] for name in sys.modules) & {*sys.stdlib_module_names, _PACKAGE}


def function_first() -> None:
    """Import as functions do: from what they name themselves, the task root, the layers, the runtime, the interpreter.

    Raises Fault where a package of the function's takes the name of a part of this one.
    """
    names = listed()
    root = os.environ.get("LAMBDA_TASK_ROOT")
    if root and root not in names:
        names.insert(0, root)
    if _OWN not in names:
        names.append(_OWN)
    os.environ.pop(_VARIABLE, None)
    os.environ["PYTHONPATH"] = os.pathsep.join(names)
    sys.path[:] = names + [entry for entry in _interpreters if entry not in names]
    # What was not there for a base may be there now.
    sys.path_importer_cache.clear()
    _hand_over([entry for entry in names if entry != _OWN])


def _hand_over(path: list[str]) -> None:
    """Give the name of this package to one of the function's; the parts of this one are found by theirs."""
    from importlib.machinery import PathFinder

    from .faults import Fault

    own = PathFinder.find_spec(_PACKAGE, path)
    if own is None:
        return
    places = list(own.submodule_search_locations or ())
    for place in places:
        if os.path.exists(f"{place}/guest") or os.path.exists(f"{place}/guest.py"):
            message = f"{place} has a part called guest, the name of Nexus' own runtime: rename {_PACKAGE} or guest"
            raise Fault("Runtime.ReservedModuleName", message)
    if own.origin is not None:
        sys.modules.pop(_PACKAGE, None)
    elif (package := sys.modules.get(_PACKAGE)) is not None:  # a part of a namespace
        package.__path__ = [*places, *package.__path__]


def give_back() -> None:
    """Let the function have modules of its own under standard names that only the SDK has loaded: the SDK keeps its own."""
    for name, _ in brought(listed()):
        if name in sys.stdlib_module_names and name in sys.modules:
            for part in [part for part in sys.modules if part == name or part.startswith(f"{name}.")]:
                del sys.modules[part]


def brought(directories: "Iterable[str]") -> "Iterator[tuple[str, str]]":
    """Top-level modules in directories, with their paths, but for those whose names the runtime has loaded."""
    for directory in directories:
        if directory == _OWN:
            continue
        try:
            entries = os.listdir(directory)
        except OSError:
            continue
        for entry in entries:
            name, dot, kind = entry.partition(".")
            path = os.path.join(directory, entry)
            if name not in _loaded and (kind.endswith(("py", "pyc", "so")) or (not dot and os.path.isdir(path))):
                yield name, path
