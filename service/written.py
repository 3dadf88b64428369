"""Answers as bytes: JSON, or the picture with people drawn. Slow, so not for the event loop."""

from heads.image import ImageFormat, encode_image
from service.accept import JSON, PNG
from service.inference.answers import DetectAnswer, PoseAnswer
from service.render import draw_boxes, draw_people
from service.schemas import DetectResponse, PoseResponse


def write_pose(answer: PoseAnswer, media_type: str) -> bytes:
    """Everybody, in the asked media type."""
    if media_type == JSON:
        return PoseResponse.of(answer).model_dump_json().encode()
    drawn = draw_people(answer.image, answer.people, answer.skeleton)
    return encode_image(drawn, _format(media_type))


def write_boxes(answer: DetectAnswer, media_type: str) -> bytes:
    """Where people are, in the asked media type."""
    if media_type == JSON:
        return DetectResponse.of(answer).model_dump_json().encode()
    drawn = draw_boxes(answer.image, answer.boxes_xywh, answer.scores)
    return encode_image(drawn, _format(media_type))


def _format(media_type: str) -> ImageFormat:
    return "png" if media_type == PNG else "jpeg"
