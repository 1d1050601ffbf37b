"""The whole service behind nginx (Debian's), with TLS and below a path: as docs/operations.md has it."""

import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trustme
from PIL import Image

from cli.stack import Stack
from support.receiving import free_port
from support.root import ROOT
from zimage import ServiceError, ZImageClient

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
SMALL = {"prompt": "a red heart", "width": 64, "height": 64, "num_inference_steps": 1}
CONFIG = """
daemon off; pid {folder}/pid; error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {folder}/chain.pem; ssl_certificate_key {folder}/key.pem;
    {documented}
    {passed_on}
  }}
}}
"""


@dataclass(frozen=True)
class Nginx:
    """Its address, and the file with the authority of its certificate."""

    url: str
    authority: Path


@pytest.fixture(scope="module")
def nginx(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """Serve. Below /zimage/ the prefix is taken away, below /whole/ it is passed on."""
    if NGINX is None:
        pytest.skip("no nginx here: apt-get install nginx-light")
    folder, port, authority = tmp_path_factory.mktemp("nginx"), free_port(), trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(folder / "chain.pem", append=True)
    running = Nginx(f"https://localhost:{port}", folder / "authority.pem")
    authority.cert_pem.write_to_path(running.authority)
    documented = re.search(r"```nginx\n(.*?)```", (ROOT / "docs" / "operations.md").read_text(), re.DOTALL)
    assert documented
    block = documented[1].replace("http://127.0.0.1:8000", stack.api_url)
    passed_on = block.replace(f"{stack.api_url}/;", f"{stack.api_url};").replace("/zimage", "/whole")
    config = CONFIG.format(folder=folder, port=port, documented=block, passed_on=passed_on)
    (folder / "nginx.conf").write_text(config)
    with subprocess.Popen([NGINX, "-e", "stderr", "-c", folder / "nginx.conf"]) as process:
        try:
            with httpx.Client(transport=httpx.HTTPTransport(trusting(running), retries=5)) as http:
                http.get(running.url)  # as soon as it listens
            yield running
        finally:
            process.terminate()


def trusting(nginx: Nginx) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=nginx.authority)


@pytest.mark.parametrize("prefix", ["/zimage", "/whole"])
def test_a_picture_is_drawn_behind_it(nginx: Nginx, prefix: str, tmp_path: Path) -> None:
    base = nginx.url + prefix
    with httpx.Client(verify=trusting(nginx), timeout=90) as http:
        posted = http.post(f"{base}/v1/jobs", json=SMALL)
        job = posted.json()
        assert posted.headers["location"] == job["urls"]["self"] == f"{base}/v1/jobs/{job['id']}"
        events = http.get(job["urls"]["events"])
        assert f'"self":"{base}/v1/jobs/{job["id"]}"' in events.text
        ended = http.get(posted.headers["location"], headers={"Prefer": "wait=60"}).json()
        assert ended["status"] == "succeeded"
        image = http.get(f"{base}/v1/jobs/{job['id']}/images/0", follow_redirects=True)
        (tmp_path / "heart.png").write_bytes(image.content)
        assert Image.open(tmp_path / "heart.png").size == (64, 64)

        page = http.get(base, follow_redirects=True)  # nginx, or the service, adds the slash
        assert (str(page.url), page.status_code) == (f"{base}/", 200)
        assert f'"root_path": "{prefix}"' in page.text
        assert http.get(f"{base}/v1/jobs/").headers["location"] == f"{base}/v1/jobs"
        assert http.get(f"{base}/openapi.json").json()["servers"][0]["url"] == prefix
        docs = http.get(f"{base}/docs").text
        for asset in re.findall(r'(?:src|href)="([^"]*swagger[^"]*)"', docs):
            assert http.get(f"{base}/{asset}").status_code == 200
        wrong = http.post(f"{base}/v1/v1/images/generations", json={})
        assert wrong.status_code == 404
        assert f"base_url={base}/v1" in wrong.json()["error"]["message"]


def test_the_client_finds_its_way(nginx: Nginx, monkeypatch: pytest.MonkeyPatch) -> None:
    base = f"{nginx.url}/zimage"
    monkeypatch.setenv("SSL_CERT_FILE", str(nginx.authority))
    with ZImageClient(f"{base}/v1/") as client:
        job = client.submit({"prompt": "a red heart", "width": 64, "height": 64})
        assert job["urls"]["self"] == f"{base}/v1/jobs/{job['id']}"
        assert client.cancel(job["id"])["id"] == job["id"]
    with ZImageClient(f"{base}/v2") as client, pytest.raises(ServiceError, match=f"the API is below {base}/v1"):
        client.page()
