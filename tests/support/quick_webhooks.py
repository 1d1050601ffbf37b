"""`zimage`, with webhooks that are tried again every second: what API and worker of a test run as."""

import functools

import api.app
from api.webhooks.deliverer import Deliverer
from cli.main import app

api.app.Deliverer = functools.partial(Deliverer, delays=[1.0] * 100)  # type: ignore[assignment, misc]
app()
