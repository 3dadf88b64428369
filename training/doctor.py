"""A doctor for keypoint data sets: what is wrong with them, what is in them, what to set.

    report = problems(Path("train.json"), Path("images"))
    report.errors           # training would fail, or learn nonsense, on these
    report.category         # what to write into the file: mirror pairs, sigmas
    report.bad_annotations  # ids to leave out where one trains all the same; and bad_images

What is looked for stands in `checks`, `repeats` and `sides`; pictures are in `contact_sheet`.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, computed_field

from heads.skeleton import Skeleton
from models.errors import SpecError
from training.advice import (
    KeypointCount,
    category_fields,
    count_keypoints,
    flip_pairs,
    given_fields,
)
from training.annotations import is_of, read_coco
from training.checks import check_entries, check_images
from training.errors import DataError
from training.findings import Finding, Findings, Labelled
from training.formats import is_yolo, read_yolo
from training.repeats import check_same
from training.sides import swapped_sides


class Report(BaseModel):
    """What a data set is like.

    people: with labelled keypoints.  unlabelled: without.  images_without: that show nobody.
    flip_pairs: names that change places in a mirror.  flip_pairs_from: how they were found.
    category: fields to write into the file's category, where training would use other ones.
    """

    model_config = ConfigDict(frozen=True)

    data: str
    images: int
    images_without: int
    people: int
    unlabelled: int
    crowds: int
    keypoints: tuple[KeypointCount, ...]
    flip_pairs: tuple[tuple[str, str], ...]
    flip_pairs_from: str
    category: dict[str, Any]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What training must not be started with."""
        return tuple(f for f in self.findings if f.level == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What somebody should look at."""
        return tuple(f for f in self.findings if f.level == "warning")

    @property
    def bad_annotations(self) -> frozenset[Any]:
        """Annotations to leave out for errors of their own; see bad_images for the others."""
        return frozenset(f.annotation for f in self.errors if f.annotation is not None)

    @property
    def bad_images(self) -> frozenset[Any]:
        """Images to leave out, with everybody in them."""
        return frozenset(
            f.image for f in self.errors if f.annotation is None and f.image is not None
        )

    @computed_field  # type: ignore[prop-decorator]
    @property
    def counts(self) -> dict[str, int]:
        """How many findings of each kind."""
        return dict(Counter(f.kind for f in self.findings).most_common())


@dataclass(frozen=True)
class Examined:
    """A data set that was looked through: the report, and what a contact sheet is drawn from.

    files: names of the images whose entry can be read, by id.
    """

    report: Report
    skeleton: Skeleton
    folder: Path
    files: Mapping[Any, str]
    people: Mapping[Any, Labelled]


def problems(annotations: Path, images: Path | None = None, *, pixels: bool = True) -> Report:
    """Looks through a COCO keypoint file, or the data.yaml of a YOLO-pose folder, and its images.

    images: their folder; left out, that of the file.  pixels: False looks only whether images are
    there, which is quick. Images are read one at a time.
    Raises DataError where there is nothing to look through.
    """
    return examine(annotations, images, pixels=pixels).report


def examine(annotations: Path, images: Path | None = None, *, pixels: bool = True) -> Examined:
    """As `problems`, with the people for a contact sheet."""
    findings = Findings()
    content, folder = _read(annotations, images, findings)
    category, skeleton = _skeleton(annotations.name, content, findings)
    sizes = check_images(content["images"], folder, pixels, findings)
    _strays(content, findings)
    entries = [e for e in content["annotations"] if _is_of(e, category)]
    people, crowds = check_entries(entries, sizes, skeleton, findings)
    check_same(people, skeleton, findings)
    for person, reason in swapped_sides(people, skeleton):
        findings.add("warning", "sides-swapped", reason, person.image, person.id)
    labelled = [person for person in people if person.labelled.any()]
    if not labelled:
        findings.add("error", "nobody", "nobody has a labelled keypoint")
    shown = {person.image for person in people}
    has_sigmas, has_pairs = given_fields(category)
    keypoints = count_keypoints(labelled, skeleton, has_sigmas)
    pairs, pairs_from = flip_pairs(skeleton, labelled, has_pairs)
    report = Report(
        data=annotations.name,
        images=len(content["images"]),
        images_without=sum(image not in shown for image in sizes),
        people=len(labelled),
        unlabelled=len(people) - len(labelled),
        crowds=crowds,
        keypoints=keypoints,
        flip_pairs=pairs,
        flip_pairs_from=pairs_from,
        category=category_fields(skeleton, keypoints, pairs),
        findings=tuple(sorted(findings.found, key=lambda finding: finding.rank)),
    )
    return Examined(report, skeleton, folder, findings.names, {p.id: p for p in people})


def _read(path: Path, images: Path | None, findings: Findings) -> tuple[dict[str, Any], Path]:
    """The content as COCO's, and the folder of its images."""
    if not is_yolo(path):
        return read_coco(path), images or path.parent
    bad: list[DataError] = []
    content, folder = read_yolo(path, bad=bad)
    for error in bad:
        findings.add("error", "label-file", str(error))
    return content, folder


def _skeleton(
    name: str, content: Mapping[str, Any], findings: Findings
) -> tuple[Mapping[str, Any], Skeleton]:
    """The category that training reads, which is the first with keypoints."""
    categories = [c for c in content["categories"] if isinstance(c, dict) and c.get("keypoints")]
    if not categories:
        raise DataError(f"{name} has no category with keypoints")
    if len(categories) > 1:
        first, *others = categories
        named = ", ".join(str(c.get("name")) for c in others)
        ids = {str(c.get("id")) for c in others}
        given = (e.get("category_id") for e in content["annotations"] if isinstance(e, dict))
        count = sum(str(category) in ids for category in given)
        findings.add(
            "warning",
            "categories",
            f"only {first.get('name')} is read, not {named} ({count} annotations); to learn all "
            "of them with the same keypoints, give them one category",
        )
    try:
        return categories[0], Skeleton.from_coco_category(categories[0])
    except SpecError as error:
        raise DataError(f"{name}: {error}") from error


def _strays(content: Mapping[str, Any], findings: Findings) -> None:
    """Warns of annotations that belong to no category of the file: nobody reads them."""
    listed = {str(c.get("id")) for c in content["categories"] if isinstance(c, dict)}
    named = [e["category_id"] for e in content["annotations"] if _names_category(e)]
    if strays := Counter(str(one) for one in named if str(one) not in listed):
        ids = ", ".join(list(strays)[:5])
        reason = f"annotations are of categories that the file does not list ({ids}): "
        findings.add("warning", "unknown-category", reason + str(strays.total()))


def _names_category(entry: Any) -> bool:
    return isinstance(entry, dict) and "category_id" in entry


def _is_of(entry: Any, category: Mapping[str, Any]) -> bool:
    mine = category.get("id")
    return not isinstance(entry, dict) or is_of(entry, mine)
