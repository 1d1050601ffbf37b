"""`/v1/model_info`, `/server_info`: what SGLang's tools ask a service for, such as its benchmark `bench_serving`."""

import os
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from api.deps import ServicesDep
from api.served_model import served_model
from jobs import __version__

router = APIRouter(tags=["sglang"])


class ServerInfo(BaseModel):
    """What is served, in SGLang's words."""

    model_path: str = Field(
        description="The checkpoint's folder where this machine has it, else a name on the hub; taken as `model` too.",
        examples=["Tongyi-MAI/Z-Image-Turbo"],
    )
    served_model_name: str = Field(description="The first of `/v1/models`.", examples=["Tongyi-MAI/Z-Image-Turbo"])
    weight_version: str | None = Field(
        description="The hub's commit that the worker heard last has loaded; null: it came from elsewhere.",
        examples=["0123456789abcdef0123456789abcdef01234567"],
    )
    task_type: Literal["T2I"] = "T2I"
    version: str = Field(__version__, description="Of this service.", examples=["0.2.0"])


@router.get("/server_info", name="server_info")
@router.get("/v1/model_info", name="model_info")
async def get_server_info(services: ServicesDep) -> ServerInfo:
    """Tell what is served. Tools look `model_path` up, in their folders or on the hub, and ask for it by that name."""
    served = await served_model(services)
    folder = served.path if served.path and os.path.isdir(served.path) else None
    on_hub = next(name for name in served.names if "/" in name)
    return ServerInfo(model_path=folder or on_hub, served_model_name=served.names[0], weight_version=served.commit)
