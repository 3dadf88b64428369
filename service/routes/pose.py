"""POST /pose: everybody's keypoints."""

from fastapi import APIRouter, Request, Response

from service.openapi import draws_image, takes_image
from service.parameters import PoseParameters
from service.routes.dependencies import KEY_NEEDED, ServingState, answer_type
from service.schemas import PoseResponse, problem_responses
from service.written import write_pose

router = APIRouter(tags=["people"], dependencies=KEY_NEEDED)


@router.post(
    "/pose",
    response_model=PoseResponse,
    responses={
        200: draws_image("Everybody, as JSON or drawn into the picture."),
        **problem_responses(400, 401, 403, 404, 406, 409, 413, 415, 422, 429, 500, 503, 504),
    },
    openapi_extra=takes_image(PoseParameters),
)
async def pose(request: Request, serving: ServingState) -> Response:
    """Every person in the photograph, each as keypoints in upright image pixels."""
    most = serving.settings.max_people
    media_type = answer_type(request)
    with serving.visit(request) as visit:
        body = await visit.read()

        def work() -> bytes:
            upload = body.parse()
            asked = PoseParameters.of(upload.pairs, most)
            answer = serving.engine.pose(upload.image, asked.model, asked.options(most), visit.job)
            return visit.record.written(
                answer, lambda: write_pose(answer, media_type), len(answer.people)
            )

        return Response(await visit.run(work), media_type=media_type, headers={"Vary": "Accept"})
