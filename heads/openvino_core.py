"""OpenVINO as the whole process shares it: one core, which tells nobody that it is used."""

import functools
import importlib
import threading
from typing import Any

import numpy as np

from models.extras import without_telemetry


def openvino() -> Any:
    """The package. Raises ImportError where it is not installed or does not load."""
    without_telemetry()
    return importlib.import_module("openvino")


def core() -> Any:
    """OpenVINO's core: one, which is never let go. Raises as `openvino` does.

    With the core goes the stack that its CPU plugin gave to signals in the thread that made it, and
    that thread keeps the address, unless it ends the core itself and the newest first. The next
    signal with a handler in Python (Ctrl-C) would then end the process.
    """
    package = openvino()
    with _ONE_CORE:
        return _made_core(package)


@functools.cache
def _made_core(package: Any) -> Any:
    # OpenVINO lets other threads run while it looks at numpy's types for the first time, and these
    # wait for that with Python's lock held: the first two crops, at once, would wait for ever.
    package.Tensor(np.zeros(1, np.uint8), shared_memory=True).element_type.to_dtype()
    return package.Core()


_ONE_CORE = threading.Lock()
"""functools.cache alone lets two threads make one each."""
