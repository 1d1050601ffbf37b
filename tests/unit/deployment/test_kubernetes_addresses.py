"""Where the pods are told that Redis, S3 and the API are is where the same objects put them."""

import base64
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from support.kubernetes_objects import NAMESPACE, ROOT, Object, environment, of_kind, overlay

DOCS = (ROOT / "docs" / "kubernetes.md").read_text()


def addresses(objects: list[Object]) -> set[tuple[str, int]]:
    """Every host and port at which a pod finds a Service."""
    return {
        (name, port["port"])
        for found in of_kind(objects, "Service")
        for name in (found["metadata"]["name"], f"{found['metadata']['name']}.{NAMESPACE}.svc")
        for port in found["spec"]["ports"]
    }


def host_and_port(url: str) -> tuple[str | None, int | None]:
    found = urlsplit(url)
    return found.hostname, found.port or {"http": 80, "https": 443, "redis": 6379}[found.scheme]


def secret(objects: list[Object], name: str) -> dict[str, str]:
    (found,) = [found for found in of_kind(objects, "Secret") if found["metadata"]["name"].startswith(name)]
    return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}


def test_the_local_overlay_names_its_own_redis_and_s3() -> None:
    local = overlay("local")
    assert host_and_port(secret(local, "zimage-redis")["url"]) in addresses(local)
    for name in ("zimage-api", "zimage-worker"):
        assert host_and_port(environment(local, name)["ZIMAGE_S3_ENDPOINT"]) in addresses(local)


def test_the_local_overlay_shows_valkey_the_password_that_it_asks_for() -> None:
    redis = secret(overlay("local"), "zimage-redis")
    assert urlsplit(redis["url"]).password == redis["password"]


@pytest.mark.parametrize("name", ["gpu", "gpu-keda"])
def test_the_docs_create_the_password_and_the_address_of_this_valkey(name: str) -> None:
    (url,) = re.findall(r'--from-literal=url="(.*?)"', DOCS)
    (password,) = re.findall(r'--from-literal=password="(.*?)"', DOCS)
    assert host_and_port(url) in addresses(overlay(name))
    assert urlsplit(url).password == password


def forwarded() -> Iterator[tuple[str, int, int]]:
    """Service, port of this machine and port of the Service, as the docs forward them."""
    for service, here, there in re.findall(r"port-forward service/(\S+) (\d+):(\d+)", DOCS):
        yield service, int(here), int(there)


def test_what_the_docs_forward_is_there_and_where_images_urls_lead() -> None:
    local = overlay("local")
    assert {(service, there) for service, _, there in forwarded()} <= addresses(local)
    at_home = {here for _, here, _ in forwarded()}
    assert urlsplit(environment(local, "zimage-api")["ZIMAGE_S3_PUBLIC_ENDPOINT"]).port in at_home
