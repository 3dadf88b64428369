"""POST /classify: what a photograph shows."""

from fastapi import APIRouter, Request, Response

from service.accept import JSON
from service.openapi import takes_image
from service.parameters import ClassifyParameters
from service.routes.dependencies import KEY_NEEDED, ONLY_JSON, ServingState
from service.schemas import ClassifyResponse, problem_responses
from service.written import write_classes

router = APIRouter(tags=["images"], dependencies=[*KEY_NEEDED, *ONLY_JSON])


@router.post(
    "/classify",
    response_model=ClassifyResponse,
    responses=problem_responses(400, 401, 403, 404, 406, 409, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra=takes_image(ClassifyParameters),
)
async def classify(request: Request, serving: ServingState) -> Response:
    """What the middle of the photograph shows, likeliest first."""
    with serving.visit(request) as visit:
        body = await visit.read()

        def work() -> bytes:
            upload = body.parse()
            asked = ClassifyParameters.of(upload.pairs, serving.settings.max_people)
            answer = serving.engine.classify(upload.image, asked.model, asked.top_k, visit.job)
            return visit.record.written(answer, lambda: write_classes(answer), None)

        return Response(await visit.run(work), media_type=JSON)
