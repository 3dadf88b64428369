"""`python -m training`."""

import os
import subprocess
import sys

STEPS = """
import os, sys
from pathlib import Path
import training.__main__ as program
assert "torch" not in sys.modules, "torch reads the environment when it is imported"
try:
    program.main(Path("nowhere.toml"))
except BaseException as error:
    print(type(error).__name__, os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"])
"""


def test_waiting_threads_sleep_before_torch_is_there() -> None:
    own = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    done = subprocess.run(
        [sys.executable, "-c", STEPS],
        env={name: value for name, value in os.environ.items() if name not in own},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["Exit", "passive", "0"]
    assert done.stderr.strip() == "nowhere.toml cannot be read: No such file or directory"
