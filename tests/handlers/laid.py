"""Has memory that its base has not, in objects old and new, and tells whether all of it is as it was."""

import hashlib
import os
import subprocess
import sys
import types

mark = os.environ["MARK"]
kept = [f"{mark}-{number}" * 20 for number in range(20_000)]
# Objects that were there before this one.
older = [module for module in sys.modules.values() if type(module) is types.ModuleType]
for module in older:
    module.nexus_mark = mark
calls = 0


def right():
    digest = hashlib.sha256("".join(kept).encode()).hexdigest()
    expected = hashlib.sha256("".join(f"{mark}-{number}" * 20 for number in range(20_000)).encode()).hexdigest()
    return digest == expected and len(older) > 100 and all(module.nexus_mark == mark for module in older)


def child(way):
    if way == "spawn":
        program = "import os; print(os.environ['MARK'])"
        return [
            subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip(),
            True,
        ]
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, f"{mark} {right()}".encode())
        os._exit(0)
    os.close(write)
    said = os.read(read, 100).decode().split()
    os.close(read)
    assert os.waitpid(pid, 0)[1] == 0
    return [said[0], said[1] == "True"]


def handler(event, context):
    global calls
    calls += 1
    answer = {"mark": mark, "calls": calls, "right": right()}
    if "way" in event:
        answer["child"] = child(event["way"])
    return answer
