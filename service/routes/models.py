"""GET /models and /backbones: what can be served, and what networks are built on."""

from fastapi import APIRouter

from service.routes.dependencies import KEY_NEEDED, ServingState
from service.schemas import (
    BackboneAnswer,
    BackbonesResponse,
    ModelAnswer,
    ModelsResponse,
    problem_responses,
)

router = APIRouter(tags=["networks"], dependencies=KEY_NEEDED)

# Plain functions: the framework runs them in threads, for they read files.


@router.get("/models", responses=problem_responses(401, 403, 429))
def list_models(serving: ServingState) -> ModelsResponse:
    """All known networks, also those whose weights are not on this machine."""
    engine = serving.engine
    return ModelsResponse(
        default=engine.default,
        detector=engine.detector,
        runtime=engine.runtime,
        models=[ModelAnswer.of(info) for info in engine.models()],
    )


@router.get("/models/{name}", responses=problem_responses(401, 403, 404, 429))
def get_model(name: str, serving: ServingState) -> ModelAnswer:
    """One network; `default` is an alias."""
    return ModelAnswer.of(serving.engine.model(name))


@router.get("/backbones", responses=problem_responses(401, 403, 429))
def list_backbones() -> BackbonesResponse:
    """All architectures, with paper, cost and the licence of their public weights."""
    # Imported when asked for: architectures need torch, serving people may not.
    from models import backbone

    return BackbonesResponse(
        backbones=[
            BackboneAnswer.of(name, backbone.facts(name)) for name in backbone.list_backbones()
        ]
    )
