"""Presigned URLs: one serves all who ask soon after each other, and none is handed out that is about to end."""

import time
from datetime import UTC, datetime

import httpx
import pytest

from jobs.objects.images import ImageStore
from jobs.settings import Settings


def test_a_url_is_signed_anew_once_a_sixtieth_of_its_life_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    images = ImageStore(Settings(s3_endpoint="http://s3.example", url_ttl=60))
    urls = set()
    for _ in range(30):
        asked = time.time()
        url = images.presign("an image")
        urls.add(url)
        signed = datetime.strptime(httpx.URL(url).params["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        assert signed.timestamp() + int(httpx.URL(url).params["X-Amz-Expires"]) - asked > 60 - 1 - 1  # in whole seconds
        time.sleep(0.05)
    assert 1 < len(urls) < 30
    assert images.presign("another") not in urls
