"""Every test of the manifests is one of each overlay."""

import pytest

from support.kubernetes_objects import OVERLAYS, Object, overlay


@pytest.fixture(params=OVERLAYS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    """An overlay's objects."""
    return overlay(request.param)
