"""A FastAPI endpoint as it is usually written: Pillow and torch in the event loop.

python -m tests.peers.plain PORT NETWORK
"""

import sys
from typing import Annotated, Any

import torch
import uvicorn
from fastapi import FastAPI, Form, UploadFile

from tests.peers.usual import Plain, to_answer, to_input


def create(name: str) -> FastAPI:
    """An application with POST /pose."""
    app = FastAPI()
    model = Plain(name)

    @app.post("/pose")
    async def pose(
        image: Annotated[UploadFile, "a photograph"],
        boxes: Annotated[str | None, Form()] = None,
    ) -> dict[str, Any]:
        array, people = to_input(await image.read(), model.size, boxes)
        with torch.no_grad():
            heatmaps = model(torch.from_numpy(array))
        return to_answer(heatmaps.numpy(), people)

    @app.get("/health/ready")
    async def ready() -> str:
        return "ok"

    return app


if __name__ == "__main__":
    uvicorn.run(create(sys.argv[2]), port=int(sys.argv[1]), log_level="warning")
