"""Below which paths the service can't be shown: its own."""

import re

import pytest

from api.app import create_app
from jobs.addresses import SettingError
from jobs.settings import Settings

OWN = ["/v1", "/docs", "/health", "/livez", "/metrics", "/openapi.json", "/readyz", "/server_info"]


@pytest.mark.parametrize("path", [*OWN, "/v1/x", "/metrics/zimage"])
def test_a_path_that_hides_the_service_s_own_is_refused(path: str) -> None:
    with pytest.raises(SettingError, match=re.escape("ZIMAGE_ROOT_PATH begins as a path of the service's own")) as told:
        create_app(Settings(root_path=path))
    assert all(own in str(told.value) for own in OWN)


@pytest.mark.parametrize("path", ["/zimage", "/v1x", "/healthy/health", ""])
def test_another_is_taken(path: str) -> None:
    create_app(Settings(root_path=path))
