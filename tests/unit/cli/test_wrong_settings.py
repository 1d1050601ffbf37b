"""Settings that can't be right: every command says so in one line that names the setting and repeats no secret."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import certifi
import pytest
import trustme
from typer.testing import CliRunner

from cli.checked_settings import load_settings
from cli.errors import UserError
from cli.main import app
from jobs.addresses import authorities
from jobs.objects.images import ImageStore
from jobs.step_cache import StepCacheParameters

COMMANDS = [
    "api",
    "worker",
    "up",
    "demo",
    "generate x",
    "checkpoint quantize tiny out",
    "dead list",
    "dead retry --all",
    "webhooks list",
    "prune",
    "keys list",
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # a command sets its own


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_password_that_is_not_encoded(command: str) -> None:
    told = CliRunner().invoke(app, command.split(), env={"ZIMAGE_REDIS_URL": "redis://:gEh3[Imx@127.0.0.1:6379/0"})
    assert told.exit_code == 2
    assert told.output.startswith("zimage: wrong setting: ZIMAGE_REDIS_URL: user or password has a character ")
    assert len(told.output.splitlines()) == 1
    assert not re.search("gEh|Eh3|Imx", told.output)


def test_the_doctor_refuses_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # not installed, and not waited for
    told = CliRunner().invoke(app, ["doctor"], env={"ZIMAGE_REDIS_URL": "redis://:gEh3/Imx@127.0.0.1:6379/0"})
    assert told.exit_code == 1
    assert re.search(r"^fail  settings  wrong setting: ZIMAGE_REDIS_URL: user or password", told.output, re.MULTILINE)
    assert not re.search("gEh|Eh3|Imx", told.output)


ENDPOINT = "must start with http:// or https://"
KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        *(
            (f"S3_{which}ENDPOINT", value, told)
            for which in ("", "PUBLIC_")
            for value, told in [
                ("https://", ENDPOINT),
                ("s3.example.com", ENDPOINT),
                ("s3://images", ENDPOINT),
                ("htps://s3.example.com", ENDPOINT),
                ("http:/s3.example.com", ENDPOINT),
                ("", ENDPOINT),
                ("https:///path", "host and port can't be read"),
                ("https://:9000", "host and port can't be read"),
                ("https://s3.example.com:port", "host and port can't be read"),
                ("https://s3 example.com", "host and port can't be read"),
                ("https://::1:9000", "host and port can't be read"),
                ("https://s3.example.com:99999", "the port must be 1 to 65535"),
                ("https://gEh3Imx:gEh3Imx@s3.example.com", KEYS),
                ("https://gEh3Imx:gEh3/Imx@s3.example.com", KEYS),
                ("gEh3Imx:gEh3Imx@s3.example.com", KEYS),
                ("https://s3.example.com?region=gEh3Imx", "without ? and #"),
                ("https://s3.example.com/#gEh3Imx", "without ? and #"),
                *(
                    (f"https://{host}:9000", "as in http")
                    for host in ("my_minio", "-h", "h-", "*.h", "h%41", '"h"', "bücher.example", "h\u0663")
                ),
                ("https://s3.example.com/a b", "as in https://s3.example.com:9000"),
                ("https://s3.example.com\n", "holds a line end"),
            ]
        ),
        ("S3_ENDPOINT", "https://account.r2.example.com/zimage", "ZIMAGE_S3_ENDPOINT ends with the bucket"),
        ("S3_BUCKET", "s3://zimage", "the bucket's name alone"),
        ("S3_BUCKET", "zimage/jobs", "the bucket's name alone"),
        ("S3_BUCKET", "", "the bucket's name alone"),
        ("WEBHOOK_SECRET", "gEh3Imx", "echo whsec_$(head -c 32 /dev/urandom | base64)"),
        ("WEBHOOK_SECRET", "whsec_gEh3Imx", "echo whsec_$(head -c 32 /dev/urandom | base64)"),
        ("WEBHOOK_SECRET", "whsec_gEh3Imxé", "echo whsec_$(head -c 32 /dev/urandom | base64)"),
        ("ALLOWED_HOSTS", "https://images.example.com", "images.example.com,images.lan"),
        ("ALLOWED_HOSTS", "images.lan, images.example.com:8000", "images.example.com,images.lan"),
        ("ALLOWED_HOSTS", "*.example.com", "images.example.com,images.lan"),
        ("ALLOWED_HOSTS", "https://user:gEh3Imx@images.example.com", "images.example.com,images.lan"),
        ("HOST", "http://0.0.0.0", "such as 127.0.0.1 or ::1"),
        ("HOST", "0.0.0.0:8000", "such as 127.0.0.1 or ::1"),
        ("METRICS_HOST", "[::1]", "such as 127.0.0.1 or ::1"),
        *(
            (which, value, told)
            for which in ("MODEL", "VAE")
            for value, told in [
                ("", "a hub id such as Tongyi-MAI/Z-Image-Turbo"),
                ("https://huggingface.co/Tongyi-MAI/Z-Image-Turbo", "a hub id such as Tongyi-MAI/Z-Image-Turbo"),
                ("https://user:gEh3Imx@example.com/model", "a hub id such as Tongyi-MAI/Z-Image-Turbo"),
                ("file:///models/Z-Image-Turbo", "name a directory"),
                ("s3:/models/Z-Image-Turbo", "s3://bucket/prefix"),
                ("s3://", "names no bucket, expected s3://bucket/prefix"),
                ("s3:///Z-Image-Turbo", "names no bucket, expected s3://bucket/prefix"),
                ("s3://gEh3Imx:gEh3Imx@models/Z-Image-Turbo", "names no bucket, expected s3://bucket/prefix"),
                ("https://example.com/model?token=gEh3Imx", "must not be a URL"),
                ("example.com/model?token=gEh3Imx", "no hub id has ? or @ in it"),
                ("me:gEh3Imx@example.com/model", "no hub id has ? or @ in it"),
                ("tiny\n", "holds a line end"),
            ]
        ),
        ("CORS_ORIGINS", "https://app.example?k=gEh3Imx", "is no origin"),
        ("CORS_ORIGINS", "gEh3Imx", "is no origin"),
        ("ROOT_PATH", "/zimage?k=gEh3Imx", "must be a path"),
        *(("ROOT_PATH", path, "/livez, /metrics, /openapi.json") for path in ("/health", "/v1/x", "/docs")),
        *(("S3_PREFIX", prefix, "such as jobs or zimage/jobs") for prefix in ("", "/jobs", "jobs/", "../jobs", "a//b")),
        ("DEVICE", "cpu\r", "holds a line end"),
        ("API_KEYS_FILE", "", "is empty: name a path, or unset it"),
        ("CACHE_DIR", " ", "is empty: name a path, or unset it"),
        ("CA_BUNDLE", "", "is empty: name a path, or unset it"),
        ("CACHE_DIR", __file__, f"{__file__} is a file: name a folder"),
        ("CACHE_DIR", f"{__file__}/below", f"{__file__} is a file: name a folder"),
        ("CA_BUNDLE", "/no/where.pem", "/no/where.pem: No such file or directory"),
        ("CA_BUNDLE", "/", "expected a PEM file"),
        ("STEP_CACHE", "slow", "must be off, quality or fast, or an object"),
        ("STEP_CACHE", '{"first": 2', "begins like an object, but is no JSON"),
        ("STEP_CACHE", '{"threshold": NaN}', "begins like an object, but is no JSON: NaN is no number"),
        ("STEP_CACHE", '{"first": 29, "last": 28}', "they must be fewer than 30 together"),
        ("STEP_CACHE", '{"mask": [1, 0]}', "must be a text with a digit for each step"),
        ("STEP_CACHE", '{"first": 0}', "first=0: Input should be greater than or equal to 1"),
        ("STEP_CACHE", '{"Fn": 1}', "Fn=1: no such field: use first"),
        ("CA_BUNDLE", __file__, "holds no certificates: expected a PEM file"),
        ("VRAM_BUDGET", "8", "expected bytes with their unit, such as 8GiB"),
        ("RESIDENCY", "vae=layers", "residency of vae is 'layers', expected resident, whole"),
        ("RESIDENCY", "unet=whole", "residency names 'unet', expected text_encoder, transformer, vae"),
    ],
)
def test_a_wrong_address_is_one_line(name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ZIMAGE_{name}", value)
    with pytest.raises(UserError) as refused:
        load_settings()
    line = str(refused.value)
    assert line.startswith("wrong setting: ZIMAGE_")
    assert f"ZIMAGE_{name}" in line
    assert told in line
    assert "\n" not in line
    assert "Value error" not in line
    assert not re.search("gEh|Eh3|Imx", line)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VRAM_BUDGET", ""),  # as docker-compose.gpu.yml hands it on where nothing is set
        ("RESIDENCY", ""),
        ("S3_ENDPOINT", "https://s3.example.com/"),
        ("S3_ENDPOINT", "http://[::1]:9000"),
        ("S3_ENDPOINT", "https://project.storage.example.com/storage/v1/s3"),
        ("S3_BUCKET", "arn:aws:s3:us-east-1:123456789012:accesspoint/images"),
        ("ALLOWED_HOSTS", "images.lan, fd00::5,10.0.0.7,"),
        ("HOST", "::"),
        ("MODEL", "/models/with: odd @ name"),
        ("S3_ENDPOINT", "HTTPS://S3.example.com.:9000"),
        ("S3_ENDPOINT", "https://xn--bcher-kva.example"),
        ("MODEL", "s3://models"),
    ],
)
def test_a_right_one_is_taken(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ZIMAGE_{name}", value)
    assert getattr(load_settings(), name.lower()) == value.removesuffix("/")


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ('{"first": 2, "mask": null}', StepCacheParameters(first=2)),
        (' {"taylor_order": 1} ', StepCacheParameters(taylor_order=1)),
        (" fast ", "fast"),
    ],
)
def test_a_step_cache_is_a_word_or_json(value: str, meant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZIMAGE_STEP_CACHE", value)
    assert load_settings().step_cache == meant


@pytest.mark.parametrize("value", ["", "::", "::0", "0:0:0:0:0:0:0:0"])
def test_all_addresses_of_a_machine_have_one_name(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZIMAGE_HOST", value)
    assert load_settings().host == "::"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("api --host http://127.0.0.1", "ZIMAGE_HOST: must be an address"),
        ("up --host 127.0.0.1:8000", "ZIMAGE_HOST: must be an address"),
        ("up --model s3://", "ZIMAGE_MODEL: names no bucket"),
        ("generate x --model https://hub/a/b", "ZIMAGE_MODEL: must not be a URL"),
        ("checkpoint quantize https://hub/m?token=secret out", "ZIMAGE_MODEL: must not be a URL"),
    ],
)
def test_options_are_looked_at_as_settings_are(command: str, told: str) -> None:
    refused = CliRunner().invoke(app, command.split())
    assert refused.exit_code == 2
    assert refused.output.startswith(f"zimage: wrong setting: {told}")


@pytest.mark.parametrize(("name", "value"), [("URL_TTL", "soon"), ("ALLOW_ANONYMOUS", "maybe"), ("LOG_FORMAT", "xml")])
def test_a_number_or_a_choice_is_repeated(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ZIMAGE_{name}", value)
    with pytest.raises(UserError, match=f"^wrong setting: ZIMAGE_{name}={value}: Input should be"):
        load_settings()


@pytest.mark.parametrize(
    "value", ["http://gEh3:Imx@h[:abc", "gEh3:Imx", "http://gEh3Imx[@h", "ftp://hub", "http://hub:99999", "https://"]
)
def test_an_address_of_the_hub_that_is_none_is_told(value: str) -> None:
    refused = CliRunner().invoke(app, ["worker"], env={"HF_ENDPOINT": value})
    assert refused.exit_code == 2
    assert re.fullmatch(r"zimage: wrong setting: HF_ENDPOINT: .*(http://host:port|%5B and %5D)\n", refused.output)
    assert not re.search("gEh|Eh3|Imx", refused.output)


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"ZIMAGE_DEVICE": "cpu", "ZIMAGE_QUANTIZATION": "fp8"}, "ZIMAGE_QUANTIZATION: fp8 "),
        ({"ZIMAGE_DEVICE": "cuda:99"}, "ZIMAGE_DEVICE: "),
        ({"ZIMAGE_DEVICE": "tpu"}, "ZIMAGE_DEVICE: "),
        ({"ZIMAGE_DEVICE": "cpu", "ZIMAGE_VRAM_BUDGET": "1MiB"}, "ZIMAGE_VRAM_BUDGET: a budget of 0.00 GiB"),
    ],
)
def test_a_setting_that_this_machine_can_not_follow_is_a_wrong_one(environ: dict[str, str], told: str) -> None:
    refused = CliRunner().invoke(app, ["generate", "x"], env=environ)
    assert refused.exit_code == 2
    assert refused.output.splitlines()[-1].startswith(f"zimage: wrong setting: {told}")


@pytest.mark.parametrize("name", authorities.VARIABLES)
def test_a_variable_of_the_libraries_that_names_no_certificates_is_told(name: str) -> None:
    refused = CliRunner().invoke(app, ["prune"], env={name: "/no/where.pem"})
    assert refused.exit_code == 2
    assert refused.output.startswith(f"zimage: wrong setting: {name}: /no/where.pem: No such file or directory")


def test_an_empty_one_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in authorities.VARIABLES:
        monkeypatch.setenv(name, " ")
    ImageStore(load_settings())


def test_authorities_are_added_to_the_usual_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, usual, of_s3 = (tmp_path / f"{name}.pem" for name in ("own", "usual", "s3"))
    for path in (own, usual, of_s3):
        trustme.CA().cert_pem.write_to_path(str(path))
    for chosen, expected in (
        ({}, [Path(certifi.where())]),
        ({"SSL_CERT_FILE": str(usual), "AWS_CA_BUNDLE": str(of_s3)}, [usual, of_s3]),
    ):
        for name in authorities.VARIABLES:
            monkeypatch.setenv(name, chosen.get(name, ""))
        authorities.trust(own)
        for name in authorities.VARIABLES:
            together = Path(os.environ[name]).read_text()
            assert all(path.read_text() in together for path in (own, *expected))
