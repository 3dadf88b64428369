"""GET / and /docs: the pages, and the files they need."""

import mimetypes
import os
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.staticfiles import StaticFiles

STATIC = Path(str(files("service.static")))

router = APIRouter(include_in_schema=False)


NOT_STALE = {"Cache-Control": "no-cache"}
"""A browser asks whether its copy is still right; after an upgrade old and new would meet."""


class PageFiles(StaticFiles):
    """The package's folder of page files, without the Python in it."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """With NOT_STALE."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(NOT_STALE)
        return response

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """Where a file is; nothing for Python files."""
        if Path(path).suffix in (".py", ".pyc"):
            return "", None
        return super().lookup_path(path)


@cache
def page_files() -> PageFiles:
    """The application that is mounted at /static, and knows a copy that is still right (304)."""
    # The system's table may call scripts plain text, and browsers then refuse to run them.
    mimetypes.add_type("text/javascript", ".js")
    return PageFiles(directory=STATIC)


@router.get("/")
async def index(request: Request) -> Response:
    """Drop a photo, see skeletons."""
    return await page_files().get_response("index.html", request.scope)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The OpenAPI document for people; needs no network."""
    return await page_files().get_response("docs.html", request.scope)
