"""What the tests of web clients share: servers, a layer of packages, a function that may reach them, and a native run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import web_servers

REQUIREMENTS = HERE / "requirements.txt"


@pytest.fixture(scope="package")
def packages() -> Path:
    """Directory with the packages that the functions use, as the node installs it."""
    from nexus.packaging.depot import Depot
    from nexus.packaging.requirements import add_requirements

    return add_requirements(Depot(Path(os.environ["NEXUS_PACKAGES"])), REQUIREMENTS, Path(sys.executable))


@pytest.fixture(scope="package")
def web(tmp_path_factory):
    """The servers, as scenarios are told of them."""
    with web_servers.running(HERE / "web_servers.py", tmp_path_factory.mktemp("certificates")) as described:
        yield described


@pytest.fixture(scope="package")
def native(packages):
    """Runs a scenario of a module on the host."""

    def run(module, event):
        program = f"import json, sys, {module}; print(json.dumps({module}.handler(json.loads(sys.argv[1]), None)))"
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{HERE}:{packages}", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-W", "ignore", "-c", program, json.dumps(event)]
        done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=100)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="module")
def deploy(node):
    """Deploys a module's handler that may reach `ports` of this machine; returns what invokes it."""

    def function(module, *, ports, memory_mib=256, **options):
        name = module.replace("_", "-")
        node.deploy(
            name,
            HERE,
            handler=f"{module}.handler",
            memory_mib=memory_mib,
            timeout_s=90,
            requirements=REQUIREMENTS,
            policy={"egress": [f"127.0.0.1:{port}" for port in ports] + ["*.invalid:*"]},
            **options,
        )

        def run(event):
            payload, response = node.invoke(name, event)
            assert not response.get("FunctionError"), f"{payload}\n{node.logs(name)}"
            return payload

        return run

    return function
