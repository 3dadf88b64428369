"""What the OpenAPI document needs beyond the routes' own types: bodies, queries and problems."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.accept import JPEG, PNG
from service.image_hosts import MAX_URL
from service.parameters import Parameters
from service.schemas import ProblemAnswer

_FILE = {"type": "string", "format": "binary"}
_BOXES_TEXT = {"type": "string", "example": "[[10, 20, 100, 200]]"}


def takes_image(parameters: type[Parameters]) -> dict[str, Any]:
    """`openapi_extra` of a route that takes an image in any of the three forms."""
    schema = parameters.model_json_schema()
    options: dict[str, Any] = schema["properties"]
    as_text = {
        name: option | (_BOXES_TEXT if name == "boxes" else {}) for name, option in options.items()
    }
    for option in as_text.values():
        if "anyOf" in option and "type" in option:
            del option["anyOf"]
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": _object({"image": _FILE, **as_text})},
                "image/*": {"schema": _FILE},
                "application/octet-stream": {"schema": _FILE},
                "application/json": {"schema": _json_object(options)},
            },
        },
        "parameters": [
            {
                "name": name,
                "in": "query",
                "required": False,
                "description": option.get("description", ""),
                "schema": {k: v for k, v in option.items() if k not in ("description", "title")},
            }
            for name, option in as_text.items()
        ],
    }


def draws_image(description: str) -> dict[str, Any]:
    """The 200 of a route that writes JSON or, where asked by Accept, a picture."""
    return {
        "description": description,
        "content": {kind: {"schema": _FILE} for kind in (JPEG, PNG)},
    }


_BASE64 = {"type": "string", "description": "The image file in base64, or a data: URL."}


_URL = {
    "type": "string",
    "format": "uri",
    "maxLength": MAX_URL,
    "description": "Where the image is, where the server allows it: https://...",
}


def _json_object(options: dict[str, Any]) -> dict[str, Any]:
    """The image itself or where it is, and the options."""
    schema = _object({"image": _BASE64, "image_url": _URL, **options})
    del schema["required"]
    return schema | {"oneOf": [{"required": ["image"]}, {"required": ["image_url"]}]}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": ["image"],
        "additionalProperties": False,
    }


_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
"""How a key is sent, where the server has keys."""

OPEN = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")
"""Answered without a key too."""


def install(app: FastAPI) -> None:
    """Completes the document; it is made when first asked for."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _complete(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    components = schema.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas["Problem"] = ProblemAnswer.model_json_schema()
    # The framework promises a 422 of its own form, which is never sent.
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    components["securitySchemes"] = _KEYS
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            if path not in OPEN:
                operation["security"] = [{}, *({name: []} for name in _KEYS)]
            own = operation["responses"].get("422", {}).get("content", {})
            if "application/json" in own:
                del operation["responses"]["422"]
    return schema
