"""A function that cannot be initialised is refused with the runtime's own error, and nothing else is disturbed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

HANDLERS = Path(__file__).parent.parent / "handlers"


@pytest.mark.parametrize(
    ("source", "handler", "kind", "says"),
    [
        ("does_not_import.py", "handler", "Runtime.ImportModuleError", "No module named 'a_module_that_nobody_has'"),
        ("syntax_error.py.txt", "handler", "Runtime.UserCodeSyntaxError", "Syntax error in module"),
        ("bad.py", "nowhere", "Runtime.HandlerNotFound", "Handler 'nowhere' missing on module 'bad'"),
        ("fails_at_import.py", "handler", "RuntimeError", "no configuration found"),
    ],
)
def test_deploy_names_what_is_wrong(node: Any, tmp_path: Path, source: str, handler: str, kind: str, says: str) -> None:
    path = tmp_path / source.removesuffix(".txt")
    path.write_text((HANDLERS / source).read_text())
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the text is what counts here
        node.deploy("broken", path, handler=handler)
    assert kind in str(caught.value)
    assert says in str(caught.value)
    assert node.admin("GET", "/nexus/v1/functions/broken")[0] == 404


def test_failed_update_leaves_the_old_version_serving(node: Any, tmp_path: Path) -> None:
    good = tmp_path / "app.py"
    good.write_text("def handler(event, context):\n    return 'first'\n")
    node.deploy("steady", good)
    assert node.invoke("steady", {})[0] == "first"
    good.write_text("raise OSError('second is broken')\n")
    with pytest.raises(Exception, match="second is broken"):
        node.deploy("steady", good)
    assert node.invoke("steady", {})[0] == "first"


@pytest.mark.parametrize("name", ["a b", "../up", "x" * 65, "ünicode", ""])
def test_name_that_lambda_would_refuse_is_refused(node: Any, name: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - CLI or API may refuse it
        node.deploy(name, HANDLERS / "bad.py")
    assert "name" in str(caught.value).lower()


def test_reserved_variable_is_refused(node: Any) -> None:
    with pytest.raises(Exception, match="AWS_LAMBDA_FUNCTION_NAME"):
        node.deploy("reserved", HANDLERS / "bad.py", environment={"AWS_LAMBDA_FUNCTION_NAME": "me"})
