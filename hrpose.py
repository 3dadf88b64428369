"""The front door of hrpose: what `import hrpose` offers, and the command `hrpose`.

    import hrpose
    estimator = hrpose.load("default")
    for person in estimator.predict(hrpose.read_image(Path("photo.jpg"))):
        print(person.score, person.keypoints)          # [K, 3]: x, y, score in upright pixels

Heavy parts (torch) are imported when they are used, so that `hrpose --help` answers at once.
"""

import errno
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from commands import (
    classify,
    compress,
    data,
    evaluate,
    export,
    key,
    models,
    pages,
    predict,
    profile,
    quantize,
    serve,
    train,
)
from commands.console import errors
from heads.image import decode_image, read_image
from heads.person import Person
from heads.photo import Photo, read_photo
from heads.skeleton import COCO_17, Skeleton
from heads.spec import NetworkSpec
from models.errors import HrposeError
from models.extras import explained
from models.memory import keep_freed
from models.threads import let_waiting_threads_sleep
from service.inference.estimator import Estimator, load

if TYPE_CHECKING:
    from models.backbone import Backbone

__all__ = [
    "COCO_17",
    "Estimator",
    "HrposeError",
    "NetworkSpec",
    "Person",
    "Photo",
    "Skeleton",
    "create_backbone",
    "decode_image",
    "load",
    "read_image",
    "read_photo",
]


def create_backbone(
    name: str, *, strides: Sequence[int] | None = None, **options: Any
) -> "Backbone":
    """A backbone by name, with the maps of the asked strides; see `models.create_backbone`."""
    with explained():
        from models.backbone import create_backbone as create

    return create(name, strides=strides, **options)


app = typer.Typer(
    name="hrpose",
    help="Keypoints of people: serve them over HTTP, find them in photographs, measure networks.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.command("serve")(serve.serve)
app.command("predict")(predict.predict)
app.command("classify")(classify.classify)
app.command("models")(models.list_models)
app.command("profile")(profile.profile)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("compress")(compress.compress)
app.command("export")(export.export)
app.command("quantize")(quantize.quantize)
app.command("key")(key.key)
app.command("backbones")(pages.list_backbones)
app.command("settings")(pages.list_settings)

weights = typer.Typer(help="Weights of public networks: list, get, verify.", no_args_is_help=True)
weights.command("list")(models.weights_list)
weights.command("get")(models.weights_get)
weights.command("verify")(models.weights_verify)
app.add_typer(weights, name="weights")
app.add_typer(data.app, name="data")


FULL = (errno.ENOSPC, errno.EDQUOT)
"""A disk, or a user's share of it, has no room left; the system then names no file."""


def main() -> None:
    """Runs the command; an error that hrpose raises on purpose is one line, not a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    let_waiting_threads_sleep()
    if sys.argv[1:2] != ["serve"]:  # which has its own way with memory
        keep_freed()
    try:
        with explained():
            app()
    except HrposeError as error:
        errors.print(f"hrpose: {error}", style="red", highlight=False, markup=False)
        sys.exit(1)
    except OSError as error:
        # The file or folder that somebody named; without a name it is a fault of ours.
        if error.filename is None and error.errno not in FULL:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        errors.print(f"hrpose: {where}{error.strerror}", style="red", highlight=False, markup=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
