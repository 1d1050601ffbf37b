"""Query parameters that a route does not know: refused like a body's unknown fields, lest a misspelt one do nothing."""

from fastapi import Request

from api.problems import FieldError, invalid_request, shortened


async def known_parameters(request: Request) -> None:
    """Let a request pass whose route knows all of its query's parameters; a dependency of routers.

    Raises:
        ProblemError: it has others (422).
    """
    known = [parameter.alias for parameter in request.scope["route"].dependant.query_params]
    told = f"there is no such parameter: {', '.join(known) or 'none'} can be given"
    unknown = (name for name in request.query_params if name not in known)
    errors = [FieldError(parameter=shortened(name), detail=told) for name in unknown]
    if errors:
        raise invalid_request(errors)
