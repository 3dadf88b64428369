"""Errors of the training layer.

HrposeError
├── RecipeError         a recipe that cannot be meant: names the key
├── DataError           a data set that cannot be used: names file and entry
│   └── AnnotationError annotations, detections or results among it
├── StateError          a run's state file that cannot be written, read, or gone on with
├── WorkersError        processes of one run that cannot meet, or would go on apart
└── TrainingDiverged    a loss that is no number any more
"""

from models.errors import HrposeError


class RecipeError(HrposeError):
    """A recipe with a key that is unknown or a value that cannot be meant."""


class DataError(HrposeError):
    """A data set that cannot be used; the message has the file and the entry."""


class AnnotationError(DataError):
    """Annotations, detections or results that cannot be used; names the file and the entry."""


class StateError(HrposeError):
    """A run's state that cannot be written or read, or that is of another recipe."""


class WorkersError(HrposeError):
    """Processes that are to train one network cannot meet, or would go on from different states."""


class TrainingDiverged(HrposeError):
    """The loss is not finite any more; the newest state file is from before."""
