"""Stores that speak S3 each in its own way: SeaweedFS, behind a proxy that refuses what the named one refuses.

What they do is told by their documentation and by reports of their users; none of them was at hand.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

from bench.chaos.s3_proxy import Request, S3Proxy, error
from cli.stack import Stack

Answer = tuple[int, str] | None
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
PAGE = 2  # keys that `Ceph` lists at once


class Store(S3Proxy):
    """A store that refuses nothing."""

    region: ClassVar = "us-east-1"

    def refusal(self, request: Request) -> Answer:
        return super().refusal(request) or self.own_refusal(request)

    def own_refusal(self, _request: Request) -> Answer:
        return None


def removes_many(request: Request) -> bool:
    return request.method == "POST" and urlsplit(request.path).query.startswith("delete")


def checksums(request: Request) -> list[str]:
    """Return the headers of a request that name checksums which S3 has had since 2022, and trailers."""
    of_body = request.headers.get("x-amz-content-sha256", "")
    named = [name.lower() for name in request.headers if re.match("x-amz-(checksum|sdk-checksum|trailer)", name, re.I)]
    return [*named, *([of_body] if "TRAILER" in of_body else [])]


def region_of(request: Request) -> str:
    signed = request.headers.get("Authorization") or unquote(urlsplit(request.path).query)
    scope = re.search(r"Credential=[^/]+/\d{8}/([^/]*)/s3/aws4_request", signed)
    return scope[1] if scope else ""


class OldMinio(Store):
    """MinIO of before 2025: a list of what to remove needs `Content-MD5`; trailing checksums are unknown."""

    def own_refusal(self, request: Request) -> Answer:
        if removes_many(request) and "Content-MD5" not in request.headers:
            return 400, error("MissingContentMD5")
        return (501, error("NotImplemented")) if checksums(request) else None


class Ceph(Store):
    """An old RGW: the first version of lists alone, with pages of its own size; trailers are no digest of the body."""

    def own_refusal(self, request: Request) -> Answer:
        return (400, error("XAmzContentSHA256Mismatch")) if checksums(request) else None

    def changed(self, request: Request, body: bytes) -> bytes:
        if request.method != "GET" or b"<ListBucketResult" not in body:
            return body
        ElementTree.register_namespace("", NAMESPACE)
        listed = ElementTree.fromstring(body)  # noqa: S314 - SeaweedFS's
        contents = listed.findall(f"{{{NAMESPACE}}}Contents")
        for item in contents[PAGE:]:
            listed.remove(item)
        for child in list(listed):
            name = child.tag.partition("}")[2]
            if name in ("NextContinuationToken", "NextMarker", "KeyCount", "ContinuationToken", "StartAfter"):
                listed.remove(child)
            elif name == "IsTruncated" and len(contents) > PAGE:
                child.text = "true"
        return ElementTree.tostring(listed, xml_declaration=True, encoding="UTF-8")


class Garage(Store):
    """Garage: each request is signed for its region."""

    region = "garage"

    def own_refusal(self, request: Request) -> Answer:
        if region_of(request) == self.region:
            return None
        return 400, error("AuthorizationHeaderMalformed", Region=self.region)


class R2(Store):
    """Cloudflare's R2: its region is `auto`, and `us-east-1` is another name of it; newer checksums are unknown."""

    region = "auto"

    def own_refusal(self, request: Request) -> Answer:
        if region_of(request) not in ("auto", "us-east-1"):
            return 400, error("InvalidRegionName")
        return (501, error("NotImplemented")) if checksums(request) else None


class Google(Store):
    """Google Cloud Storage's XML API: removes one by one, says what was not there, and is busy at the first of each."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._removed: set[str] = set()
        self._was_busy: set[str] = set()

    def own_refusal(self, request: Request) -> Answer:
        if removes_many(request):
            return 400, error("InvalidArgument")
        if checksums(request):
            return 400, error("InvalidArgument")
        if request.method in ("PUT", "DELETE") and request.method not in self._was_busy:
            self._was_busy.add(request.method)
            return 429, error("SlowDown")
        if request.method == "DELETE":
            path = urlsplit(request.path).path
            if path in self._removed:
                return 404, error("NoSuchKey")
            self._removed.add(path)
        return None


class Unremoving(Store):
    """A bucket that takes objects and gives none up: its policy allows `s3:PutObject`, and not `s3:DeleteObject`."""

    allowing = False

    def own_refusal(self, request: Request) -> Answer:
        if self.allowing or not (removes_many(request) or request.method == "DELETE"):
            return None
        return 403, error("AccessDenied")


class UnremovingAsAws(Unremoving):
    """The same as AWS answers it to a list of what to remove: 200, and an error for each."""

    def own_refusal(self, request: Request) -> Answer:
        if self.allowing or not removes_many(request):
            return super().own_refusal(request)
        keys = re.findall("<Key>(.*?)</Key>", request.body.decode())
        errors = (error("AccessDenied", Key=key) for key in keys)
        return 200, f'<DeleteResult xmlns="{NAMESPACE}">{"".join(errors)}</DeleteResult>'


class Mute(Store):
    """A store that takes a list of what to remove, removes nothing and says nothing."""

    def own_refusal(self, request: Request) -> Answer:
        return (200, f'<DeleteResult xmlns="{NAMESPACE}"/>') if removes_many(request) else None


class Broken(Store):
    """A store that fails at a list of what to remove, as s3rver does."""

    def own_refusal(self, request: Request) -> Answer:
        return (500, error("InternalError")) if removes_many(request) else None


class Small(Store):
    """A proxy that takes bodies of up to 1,000 bytes."""

    def own_refusal(self, request: Request) -> Answer:
        return (413, "<html>Request Entity Too Large</html>") if len(request.body) > 1000 else None


class Garbling(Store):
    """A store that gives other bytes than it took, as many."""

    def changed(self, _request: Request, body: bytes) -> bytes:
        return body if b"<ListBucketResult" in body else bytes(len(body))


class Cutting(Store):
    """A proxy that passes on the first MiB of an answer."""

    def changed(self, _request: Request, body: bytes) -> bytes:
        return body[: 1024**2]


class Optimising(Store):
    """A cache that makes smaller pictures of what browsers ask for."""

    def changed(self, request: Request, body: bytes) -> bytes:
        return body if "Authorization" in request.headers else body[::2]


class Feigning(Store):
    """A store that says of all objects that it removed them, and keeps them."""

    def own_refusal(self, request: Request) -> Answer:
        if removes_many(request):
            removed = re.findall("<Key>.*?</Key>", request.body.decode())
            told = "".join(f"<Deleted>{key}</Deleted>" for key in removed)
            return 200, f'<DeleteResult xmlns="{NAMESPACE}">{told}</DeleteResult>'
        return (204, "") if request.method == "DELETE" else None


class Late(Store):
    """A store whose lists know nothing yet of what was written."""

    def changed(self, _request: Request, body: bytes) -> bytes:
        return re.sub(rb"<Contents>.*</Contents>", b"", body, flags=re.DOTALL)


NAMED = (OldMinio, Ceph, Garage, R2, Google)


@contextmanager
def standing_before(servers: Stack, kind: type[Store]) -> Iterator[Store]:
    """Put a store of this kind in front of the servers' SeaweedFS."""
    port = urlsplit(servers.s3_url).port
    assert port
    store = kind(lambda: port)
    yield store
    store.close()
