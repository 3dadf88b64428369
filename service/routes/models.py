"""GET /models and /backbones: what can be served, and what networks are built on."""

from pathlib import Path

from fastapi import APIRouter

from service.routes.dependencies import KEY_NEEDED, ServingState
from service.schemas import (
    BackbonesResponse,
    ModelAnswer,
    ModelsResponse,
    problem_responses,
)

BACKBONES = Path(__file__).parents[1] / "backbones.json"

router = APIRouter(tags=["networks"], dependencies=KEY_NEEDED)

# Plain functions: the framework runs them in threads, for they read files.


@router.get("/models", responses=problem_responses(401, 403))
def list_models(serving: ServingState) -> ModelsResponse:
    """All known networks, also those whose weights are not on this machine."""
    engine = serving.engine
    return ModelsResponse(
        default=engine.default,
        detector=engine.detector,
        runtime=engine.runtime,
        models=[ModelAnswer.of(info) for info in engine.models()],
    )


@router.get("/models/{name}", responses=problem_responses(401, 403, 404))
def get_model(name: str, serving: ServingState) -> ModelAnswer:
    """One network; `default` is an alias."""
    return ModelAnswer.of(serving.engine.model(name))


@router.get("/backbones", responses=problem_responses(401, 403))
def list_backbones() -> BackbonesResponse:
    """All architectures, with paper, cost and the licence of their public weights."""
    # From a file made by `make docs`: architectures need torch, which may not be installed.
    return BackbonesResponse.model_validate_json(BACKBONES.read_bytes())
