"""`/docs`: the OpenAPI document as Swagger UI shows it, which comes from this service too, not from a CDN."""

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from api.http.csp import CLOSED, inline_source

router = APIRouter(include_in_schema=False)

assets = StaticFiles(packages=[("fastapi_swagger", "resources")])  # as Swagger UI releases them


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
