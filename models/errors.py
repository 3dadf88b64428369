"""The tree of every error hrpose raises on purpose.

HrposeError
├── SpecError          a network that cannot be built as asked
│   └── UnknownName    no backbone or network of that name
├── ShapeError         an array or tensor of the wrong shape
├── PackageMissing  a package of an extra that is not installed (`models/extras.py`)
└── WeightsError       tensors that do not fit the network, or cannot be read

The layers above add their own branches (`heads/errors.py`, `service/errors.py`,
`training/errors.py`); this module is the lowest layer and imports nothing.
"""

from collections.abc import Iterable


class HrposeError(Exception):
    """Root of the tree: whatever hrpose refuses, it refuses with a subclass of this."""


class SpecError(HrposeError):
    """A network that cannot be built as asked; the message says what would fit."""


class UnknownName(SpecError):
    """Nothing of that `kind` is called `name`; `known` lists what there is."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind = kind
        self.name = name
        self.known = tuple(sorted(known))
        super().__init__(f"there is no {kind} called {name!r}; there is: {', '.join(self.known)}")


class ShapeError(HrposeError):
    """An array or tensor of the wrong shape; the message has the expected and the actual one."""


class WeightsError(HrposeError):
    """Tensors that do not fit the network: every one that is missing, unexpected or misshapen."""

    def __init__(
        self,
        message: str,
        missing: Iterable[str] = (),
        unexpected: Iterable[str] = (),
        misshapen: Iterable[str] = (),
    ) -> None:
        self.missing = tuple(missing)
        self.unexpected = tuple(unexpected)
        self.misshapen = tuple(misshapen)
        super().__init__(message)
