"""Finding and importing the handler."""

import importlib
import sys
from collections.abc import Callable
from typing import Any, cast

from .faults import Fault

Handler = Callable[[Any, Any], Any]


def load(name: str) -> Handler:
    """Import `module.function`, `package.module.function` or `folder/module.function`.

    Raises Fault where the name, the import or the function is at fault; other exceptions of the module's own code
    pass.
    """
    module_name, dot, attribute = name.rpartition(".")
    if not dot:
        raise Fault("Runtime.MalformedHandlerName", f"Bad handler '{name}': not enough values to unpack (expected 2, got 1)")
    if module_name.split(".")[0] in sys.builtin_module_names:
        raise Fault("Runtime.BuiltInModuleConflict", f"Cannot use built-in module {module_name} as a handler module")
    try:
        module = importlib.import_module(module_name.replace("/", "."))
    except ImportError as error:
        raise Fault("Runtime.ImportModuleError", f"Unable to import module '{module_name}': {error}") from error
    except SyntaxError as error:
        trace = [f'  File "{error.filename}" Line {error.lineno}\n    {error.text}']
        raise Fault("Runtime.UserCodeSyntaxError", f"Syntax error in module '{module_name}': {error}", trace) from error
    try:
        return cast(Handler, getattr(module, attribute))
    except AttributeError as error:
        raise Fault("Runtime.HandlerNotFound", f"Handler '{attribute}' missing on module '{module_name}'") from error
