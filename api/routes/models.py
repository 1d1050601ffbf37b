"""`/v1/models`: the served model and its aliases, as OpenAI's clients list them."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from api.deps import ServicesDep
from api.openai.refusals import openai_error_responses
from api.served_model import served_model

router = APIRouter(prefix="/v1/models", tags=["openai"])


class ModelView(BaseModel):
    """A name by which the served model can be asked for."""

    id: str = Field(examples=["Tongyi-MAI/Z-Image-Turbo"])
    object: Literal["model"] = "model"
    created: int = Field(0, description="Seconds since 1970; a checkpoint does not tell, so 0.")
    owned_by: str = "zimage-service"


class ModelPage(BaseModel):
    """The model's own name, then its aliases."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "list",
                    "data": [
                        {"id": name, "object": "model", "created": 0, "owned_by": "zimage-service"}
                        for name in ("tiny", "Tongyi-MAI/Z-Image-Turbo")
                    ],
                }
            ]
        }
    )

    object: Literal["list"] = "list"
    data: list[ModelView]


@router.get("/", include_in_schema=False)  # else it would be a model without a name
@router.get("", response_model=ModelPage)
async def list_models(services: ServicesDep) -> ModelPage:
    """List the names that `POST /v1/images/generations` takes as `model`."""
    return ModelPage(data=[ModelView(id=name) for name in (await served_model(services)).names])


@router.get(
    "/{model:path}",
    response_model=ModelView,
    responses=openai_error_responses(
        (
            404,
            "model_not_found",
            "model: there is no model other: what is served is called tiny, Tongyi-MAI/Z-Image-Turbo",
        )
    ),
)
async def get_model(
    model: Annotated[str, Path(examples=["Tongyi-MAI/Z-Image-Turbo"])], services: ServicesDep
) -> ModelView:
    """Tell whether a name is one of the served model's."""
    (await served_model(services)).check_name(model)
    return ModelView(id=model)
