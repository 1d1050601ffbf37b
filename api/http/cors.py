"""Whose pages may call the service from another origin, by `ZIMAGE_CORS_ORIGINS`: none by default."""

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

METHODS = ("GET", "HEAD", "POST", "DELETE")
# What scripts may read of an answer besides its body and what browsers show them anyway.
EXPOSED = (
    *("ETag", "Idempotent-Replayed", "Location", "Preference-Applied", "RateLimit", "RateLimit-Policy"),
    *("Retry-After", "WWW-Authenticate", "X-Request-ID", "X-Should-Retry", "X-Warnings"),
)


class CrossOrigin(CORSMiddleware):
    """Tells browsers that pages of these origins may call; without cookies, since a key is all that is asked for.

    Any header may be sent: OpenAI's client has many (`X-Stainless-…`). Answers a preflight by itself, whoever asks.

    Args:
        app: what comes after.
        origins: as the settings have them, separated by commas; `*`: all.
    """

    def __init__(self, app: ASGIApp, origins: str) -> None:
        super().__init__(
            app,
            allow_origins=origins.split(","),
            allow_methods=METHODS,
            allow_headers=["*"],
            expose_headers=EXPOSED,
            allow_private_network=True,  # a public site's page may call a service at home, if it is listed
        )
