"""`/`: the playground, a page that drives the API from a browser. It is one file, without anything from elsewhere."""

import asyncio
import json
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from redis.exceptions import RedisError

from api.deps import Services, ServicesDep
from api.http.csp import CLOSED, inline_source
from api.readiness import CHECK_SECONDS
from api.served_model import served_model
from jobs.model_card import TINY, TINY_SIZES, served_name, size_limits

router = APIRouter(include_in_schema=False)

SIZES = (
    *((1024, 1024), (1152, 896), (1248, 832), (1280, 720), (1344, 576), (896, 1152), (832, 1248), (720, 1280)),
    *((576, 1344), (512, 512), (768, 768), (1280, 1280), (1536, 1536)),
)


@router.get("/", response_class=HTMLResponse)
async def get_playground(request: Request, services: ServicesDep) -> HTMLResponse:
    """Serve the page."""
    page, policy = _page()
    told = {**await _config(services), "root_path": request.scope.get("root_path", "")}
    config = json.dumps(told).replace("<", r"\u003c")
    headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
    return HTMLResponse(page.replace("{}</script>", f"{config}</script>", 1), headers=headers)


async def _config(services: Services) -> dict[str, Any]:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            served = await served_model(services)
        model, limits = served.names[0], served.sizes
    except (RedisError, TimeoutError):  # the page says so itself as soon as something is asked for
        model = served_name(services.settings.model)
        limits = size_limits(model)
    return {
        "model": model,
        "min_size": limits.min_size,
        "max_size": limits.max_size,
        "sizes": TINY_SIZES if model == TINY else SIZES,
        "keys": services.settings.api_keys_file is not None,
    }


@cache
def _page() -> tuple[str, str]:
    """The page, and the policy that lets a browser run what is in it and nothing else; pictures come from S3."""
    page = (files("api") / "static" / "playground.html").read_text(encoding="utf-8")
    script, style = inline_source(page, "script"), inline_source(page, "style")
    policy = (
        f"{CLOSED}; script-src {script}; style-src {style}; img-src http: https: blob: data:; connect-src http: https:"
    )
    return page, policy
