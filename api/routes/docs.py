"""`/docs`: the OpenAPI document as Swagger UI shows it, which comes from this service too, not from a CDN."""

import os
from collections.abc import AsyncIterator
from functools import cache, lru_cache
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from api.http.csp import CLOSED, inline_source
from api.http.unsent import PIECE_BYTES

router = APIRouter(include_in_schema=False)


class _Kept(StaticFiles):
    """Files that are read once: whoever is slow to take one holds neither a file open nor a copy of it."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Return the answer with a file (starlette)."""
        answer = super().file_response(full_path, stat_result, scope, status_code)
        if not isinstance(answer, FileResponse):
            return answer  # it has not changed
        headers = {name: value for name, value in answer.headers.items() if name != "accept-ranges"}
        return StreamingResponse(_pieces(_content(os.fspath(full_path))), status_code, headers)


@cache
def _content(path: str) -> bytes:
    return Path(path).read_bytes()


@router.get("/openapi.json")
async def get_openapi_document(request: Request) -> Response:
    """Serve the document, which names the path below which the service is shown."""
    content = _document(request.app, request.scope.get("root_path", ""))
    headers = {"Content-Type": "application/json", "Content-Length": str(len(content))}
    return StreamingResponse(_pieces(content), headers=headers)


@lru_cache(16)
def _document(app: FastAPI, root_path: str) -> bytes:
    document = app.openapi()
    if root_path:
        document = {**document, "servers": [{"url": root_path}, *document.get("servers", [])]}
    return bytes(JSONResponse(document).body)


async def _pieces(content: bytes) -> AsyncIterator[memoryview]:
    # So that no more than a piece counts as waiting to be sent, though the rest is shared by all.
    shared = memoryview(content)
    for start in range(0, len(content), PIECE_BYTES):
        yield shared[start : start + PIECE_BYTES]


assets = _Kept(packages=[("fastapi_swagger", "resources")])  # as Swagger UI releases them


@router.get("/docs", response_class=HTMLResponse)
async def get_docs(request: Request) -> HTMLResponse:
    """Serve the page."""
    # Relative addresses: right behind any proxy.
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=request.app.title,
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="data:,",
        swagger_ui_parameters={"validatorUrl": None},  # else a site of Swagger's would be asked to judge the document
    )
    script = inline_source(bytes(page.body).decode(), "script")
    page.headers["Content-Security-Policy"] = (
        f"{CLOSED}; script-src 'self' {script}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'"
    )
    return page
