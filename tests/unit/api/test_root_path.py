"""Below which paths the service can't be shown: its own."""

from fastapi.routing import iter_route_contexts

from api.app import create_app
from jobs.addresses.web import OWN
from jobs.settings import Settings


def test_the_service_s_own_paths_are_known() -> None:
    paths = {context.path or "/" for context in iter_route_contexts(create_app(Settings()).routes)}
    assert {path.split("/")[1] for path in paths} - {""} == OWN
