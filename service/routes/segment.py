"""POST /segment: the class of every pixel."""

from fastapi import APIRouter, Request, Response

from service.openapi import draws_image, takes_image
from service.parameters import SegmentParameters
from service.routes.dependencies import KEY_NEEDED, ServingState, answer_type
from service.schemas import SegmentResponse, problem_responses
from service.written import write_segments

router = APIRouter(tags=["images"], dependencies=KEY_NEEDED)


@router.post(
    "/segment",
    response_model=SegmentResponse,
    responses={
        200: draws_image("Runs of classes as JSON, class indices as PNG, or colours laid over."),
        **problem_responses(400, 401, 403, 404, 406, 409, 413, 415, 422, 429, 500, 503, 504),
    },
    openapi_extra=takes_image(SegmentParameters),
)
async def segment(request: Request, serving: ServingState) -> Response:
    """The class of every pixel of the upright photograph."""
    media_type = answer_type(request)
    with serving.visit(request) as visit:
        body = await visit.read()

        def work() -> bytes:
            upload = body.parse()
            asked = SegmentParameters.of(upload.pairs, serving.settings.max_people)
            answer = serving.engine.segment(upload.image, asked.model, visit.job)
            return visit.record.written(
                answer, lambda: write_segments(answer, media_type, asked.view), None
            )

        return Response(await visit.run(work), media_type=media_type, headers={"Vary": "Accept"})
