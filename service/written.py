"""Answers as bytes: JSON, or the picture with people drawn. Slow, so not for the event loop."""

from heads.draw import draw_boxes, draw_classes, draw_people
from heads.image import Image, encode_image
from heads.photo import Photo
from service.accept import JPEG, JSON, PNG
from service.errors import NotAcceptable
from service.inference.answers import ClassifyAnswer, DetectAnswer, PoseAnswer, SegmentAnswer
from service.png import encode_indexed
from service.schemas import ClassifyResponse, DetectResponse, PoseResponse, SegmentResponse


def write_pose(answer: PoseAnswer, media_type: str) -> bytes:
    """Everybody, in the asked media type."""
    if media_type == JSON:
        return PoseResponse.of(answer).model_dump_json().encode()
    with Photo.of(answer.image) as photo:
        drawn = draw_people(photo.canvas(), answer.people, answer.skeleton)
        return _encoded(drawn, media_type)


def write_boxes(answer: DetectAnswer, media_type: str) -> bytes:
    """Where people are, in the asked media type."""
    if media_type == JSON:
        return DetectResponse.of(answer).model_dump_json().encode()
    with Photo.of(answer.image) as photo:
        drawn = draw_boxes(photo.canvas(), answer.boxes_xywh, answer.scores)
        return _encoded(drawn, media_type)


def write_classes(answer: ClassifyAnswer) -> bytes:
    """What the photograph shows, as JSON."""
    return ClassifyResponse.of(answer).model_dump_json().encode()


def write_segments(answer: SegmentAnswer, media_type: str, view: str) -> bytes:
    """The class of every pixel: runs, an indexed PNG, or colours laid over the picture."""
    if media_type == JSON:
        return SegmentResponse.of(answer).model_dump_json().encode()
    if media_type == JPEG or view == "overlay":
        with Photo.of(answer.image) as photo:
            drawn = draw_classes(photo.canvas(), answer.class_map, answer.palette)
            return _encoded(drawn, media_type)
    return encode_indexed(answer.class_map, answer.palette)


LONGEST_JPEG_SIDE = 65_500
"""Of libjpeg, in pixels."""


def _encoded(drawn: Image, media_type: str) -> bytes:
    """The picture as a file; NotAcceptable where it is too long for a JPEG."""
    if media_type == PNG:
        return encode_image(drawn, "png")
    if max(drawn.shape) > LONGEST_JPEG_SIDE:
        raise NotAcceptable(
            f"a JPEG has no side of more than {LONGEST_JPEG_SIDE} pixels; {PNG} and {JSON} can be "
            "asked for"
        )
    return encode_image(drawn, "jpeg")
