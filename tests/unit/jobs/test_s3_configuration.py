"""Which S3 is asked where boto3's own variables and files name one, and what is told of those it can't use."""

import re
from pathlib import Path

import pytest
from botocore.awsrequest import AWSRequest, AWSResponse
from typer.testing import CliRunner
from urllib3 import HTTPResponse

from cli.main import app
from jobs.addresses import SettingError
from jobs.objects.images import ImageStore
from jobs.objects.refusals import STORAGE_ERRORS
from jobs.objects.s3_client import connect
from jobs.settings import Settings
from support.proxying import set_proxies


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    set_proxies(monkeypatch)
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file of boto3's own, which is read anew."""
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path / "config"


@pytest.mark.parametrize(
    ("environ", "region", "told"),
    [
        ({}, "cn-north-1", "S3 at https://s3.cn-north-1.amazonaws.com.cn (no ZIMAGE_S3_ENDPOINT)"),
        ({}, "eu-central-1", "S3 at https://s3.eu-central-1.amazonaws.com (no ZIMAGE_S3_ENDPOINT)"),
        ({"AWS_ENDPOINT_URL": "http://own:9000"}, "auto", "S3 at http://own:9000 (AWS_ENDPOINT_URL)"),
        (
            {"AWS_ENDPOINT_URL": "http://own:9000", "AWS_ENDPOINT_URL_S3": "http://s3:9000"},
            "auto",
            "S3 at http://s3:9000 (AWS_ENDPOINT_URL_S3)",
        ),
    ],
)
def test_it_is_told_which_s3_is_asked(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], region: str, told: str
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert ImageStore(Settings(s3_region=region)).address.startswith(told)
    assert "S3 at http://ours:1 (ZIMAGE_S3_ENDPOINT)" in ImageStore(Settings(s3_endpoint="http://ours:1")).address


def test_a_profile_s_endpoint_is_told(monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    config.write_text("[profile store]\nendpoint_url = http://store.example:9000\n")
    monkeypatch.setenv("AWS_PROFILE", "store")
    assert ImageStore(Settings()).address.startswith("S3 at http://store.example:9000 (no ZIMAGE_S3_ENDPOINT)")


def refusal() -> str:
    with pytest.raises(SettingError) as told:
        ImageStore(Settings())
    assert not re.search("gEh|Eh3|Imx|\n", str(told.value))
    return str(told.value)


@pytest.mark.parametrize(
    "value",
    [
        *("https://gEh3:Imx@s3.example", "https://my_minio", "https://gEh3[Imx", "gEh3Imx", "https://h?k=gEh3Imx"),
        *("https://h:99999", "https://h:gEh3Imx", "https://bücher.example", "ftp://h", "https://h\n"),
    ],
)
def test_an_endpoint_of_boto3_s_own_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", value)
    assert re.match(r"AWS_ENDPOINT_URL: (must|names|host and port|the port)", refusal())


@pytest.mark.parametrize(
    ("value", "told"),
    [("https://gEh3:Imx@s3.example", "must hold no user and password"), ("https://gEh3[Imx", "can't be used")],
)
def test_one_of_a_profile_too(config: Path, value: str, told: str) -> None:
    config.write_text(f"[default]\nendpoint_url = {value}\n")
    assert re.search(rf"endpoint_url .*{told}|{told}.* endpoint_url", refusal())


@pytest.mark.parametrize(
    ("environ", "content", "told"),
    [
        ({"AWS_PROFILE": "nope"}, "", r"The config profile \(nope\) could not be found"),
        ({}, "no section", "Unable to parse config file"),
        ({}, "[default]\nservices = none\n", "services configuration does not exist"),
        ({"AWS_MAX_ATTEMPTS": "gEh3Imx"}, "", "a number that can't be read"),
        ({"AWS_EC2_METADATA_SERVICE_ENDPOINT": "gEh3:Imx@h"}, "", "Metadata endpoint: \\*\\*\\*@h"),
    ],
)
def test_what_boto3_stumbles_over_is_a_line(config: Path, environ: dict[str, str], content: str, told: str) -> None:
    config.write_text(content)
    refused = CliRunner().invoke(app, ["prune"], env=environ)
    assert refused.exit_code == 2
    assert re.fullmatch(f"zimage: boto3's AWS_… variables or files can't be used: .*{told}.*\n", refused.output)
    assert not re.search("gEh|Eh3|Imx", refused.output)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("credential_process = /nowhere/helper", "/nowhere/helper: No such file or directory"),
        ("credential_process = echo none", "names a program that prints no credentials"),
    ],
)
def test_where_no_credentials_come_from_is_told(
    monkeypatch: pytest.MonkeyPatch, config: Path, line: str, told: str
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    config.write_text(f"[default]\n{line}\n")
    assert told in refusal()


def test_what_boto3_lets_through_is_an_error_of_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: AWSRequest, **_: object) -> AWSResponse:
        return AWSResponse(request.url, 200, {"x-amz-object-size": "no number"}, HTTPResponse(b""))

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key")
    client = connect(Settings(), "http://s3.example:9000")
    client.meta.events.register("before-send.s3", answer)
    with pytest.raises(STORAGE_ERRORS, match=r"boto3 failed \(ValueError\): see its AWS_"):
        client.put_object(Bucket="zimage", Key="x", Body=b"")
