"""POST /detect: where people are."""

from fastapi import APIRouter, Request, Response

from service.openapi import draws_image, takes_image
from service.parameters import DetectParameters
from service.routes.dependencies import KEY_NEEDED, ServingState, answer_type
from service.schemas import DetectResponse, problem_responses
from service.written import write_boxes

router = APIRouter(tags=["people"], dependencies=KEY_NEEDED)


@router.post(
    "/detect",
    response_model=DetectResponse,
    responses={
        200: draws_image("Boxes, as JSON or drawn into the picture."),
        **problem_responses(400, 401, 403, 404, 406, 409, 413, 415, 422, 429, 500, 503, 504),
    },
    openapi_extra=takes_image(DetectParameters),
)
async def detect(request: Request, serving: ServingState) -> Response:
    """The box of every person in the photograph, best first."""
    most = serving.settings.max_people
    media_type = answer_type(request)
    with serving.visit(request) as visit:
        body = await visit.read()

        def work() -> bytes:
            upload = body.parse()
            asked = DetectParameters.of(upload.pairs, most)
            answer = serving.engine.detect(
                upload.image, asked.model, asked.threshold, asked.max_people or most, visit.job
            )
            return visit.record.written(
                answer, lambda: write_boxes(answer, media_type), len(answer.boxes_xywh)
            )

        return Response(await visit.run(work), media_type=media_type, headers={"Vary": "Accept"})
