"""ZIMAGE_MODEL=s3://…: the same picture as from the directory, and what is downloaded when."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from cli.main import app
from cli.stack import Stack
from jobs.settings import Settings
from pipeline import TINY_CHECKPOINT, CheckpointError
from pipeline.checkpoint.components import Checkpoint
from pipeline.checkpoint.s3 import download
from support.s3_access import key_pair, s3_client, s3_keys
from worker.loading import find_checkpoint

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def s3(servers: Stack) -> Any:
    return s3_client(servers.s3_url, *key_pair(servers))


@pytest.fixture
def bucket(s3: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    """A bucket with the bundled checkpoint under models/tiny, and other things around it."""
    name = f"checkpoints-{abs(hash(request.node.name))}"
    s3.create_bucket(Bucket=name)
    upload(s3, name, "models/tiny")
    for key in ("models/tiny/README.md", "models/tiny/samples/cat.png", "models/tiny-2/model_index.json", "notes.json"):
        s3.put_object(Bucket=name, Key=key, Body=b"of no use")
    yield name
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=name):
        for item in page["Contents"]:
            s3.delete_object(Bucket=name, Key=item["Key"])
    s3.delete_bucket(Bucket=name)


def upload(s3: Any, bucket: str, prefix: str) -> None:
    for path in TINY_CHECKPOINT.rglob("*"):
        if path.is_file():
            s3.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(TINY_CHECKPOINT)}")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stamps(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def draw(model: str, folder: Path, environ: dict[str, str]) -> tuple[str, bytes]:
    """Return the model's name and the picture's pixels."""
    command = [sys.executable, "-m", "cli.main", "generate", "a red heart on blue", "--model", model, "--json"]
    options = ["--seed", "7", "--width", "64", "--height", "64", "--steps", "2", "--out", str(folder)]
    done = subprocess.run(
        [*command, *options], env={**os.environ, **environ}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    drawn = json.loads(done.stdout)
    return drawn["model"], Image.open(drawn["images"][0]["path"]).tobytes()


@pytest.fixture(scope="module")
def from_directory(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    return draw(str(TINY_CHECKPOINT), tmp_path_factory.mktemp("drawn"), {})


@pytest.mark.parametrize("variable", ["ZIMAGE_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3"])
def test_it_draws_the_picture_that_the_directory_draws(
    servers: Stack, bucket: str, tmp_path: Path, variable: str, from_directory: tuple[str, bytes]
) -> None:
    environ = {key: value for key, value in servers.environ().items() if not key.startswith("ZIMAGE_")}
    environ |= {variable: servers.s3_url, "ZIMAGE_CACHE_DIR": str(tmp_path / "cache")}

    from_s3 = draw(f"s3://{bucket}/models/tiny", tmp_path, environ)

    assert from_s3[1] == from_directory[1]
    assert (from_s3[0], from_directory[0]) == ("models/tiny", "tiny")
    assert any((tmp_path / "cache/s3").iterdir())


def test_the_doctor_looks_for_it(servers: Stack, bucket: str) -> None:
    named = {"ZIMAGE_MODEL": f"s3://{bucket}/models/tiny", "ZIMAGE_VAE": f"s3://{bucket}/models"}
    with s3_keys(*key_pair(servers)):
        findings = json.loads(CliRunner(env={**servers.environ(), **named}).invoke(app, ["doctor", "--json"]).stdout)
    told = {finding["check"]: (finding["level"], finding["message"]) for finding in findings}
    here = len(files(TINY_CHECKPOINT))
    assert told["model"][0] == "ok"
    assert told["model"][1].startswith(f"s3://{bucket}/models/tiny, {here} files of 0.02 GiB in S3; kept in ")
    expected = f"s3://{bucket}/models: no checkpoint, expected model_index.json below this prefix: see ZIMAGE_VAE"
    assert told["vae"] == ("fail", expected)


def test_only_the_checkpoint_is_downloaded_and_only_once(s3: Any, bucket: str, tmp_path: Path) -> None:
    folder = download(f"s3://{bucket}/models/tiny", tmp_path, lambda: s3)
    before = stamps(folder)
    assert files(folder) == files(TINY_CHECKPOINT)

    assert download(f"s3://{bucket}/models/tiny/", tmp_path, lambda: s3) == folder
    assert stamps(folder) == before


def test_what_changed_in_the_bucket_is_downloaded_again(s3: Any, bucket: str, tmp_path: Path) -> None:
    folder = download(f"s3://{bucket}/models/tiny", tmp_path, lambda: s3)
    before = stamps(folder)
    weights = (folder / WEIGHTS).read_bytes()
    s3.put_object(Bucket=bucket, Key=f"models/tiny/{WEIGHTS}", Body=bytes(len(weights)))
    s3.delete_object(Bucket=bucket, Key="models/tiny/vae/config.json")

    assert download(f"s3://{bucket}/models/tiny", tmp_path, lambda: s3) == folder

    after = stamps(folder)
    assert (folder / WEIGHTS).read_bytes() == bytes(len(weights))
    assert after.keys() == before.keys() - {"vae/config.json"}
    assert {name for name in after if after[name] != before[name]} == {WEIGHTS}


def test_a_download_that_broke_off_goes_on(s3: Any, bucket: str, tmp_path: Path) -> None:
    class Broken:
        """S3 up to the third file, of which half arrives."""

        def __init__(self) -> None:
            self.downloads = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(s3, name)

        def download_file(self, bucket: str, key: str, path: str) -> None:
            self.downloads += 1
            if self.downloads == 3:
                Path(f"{path}.1a2b3c4d").write_bytes(b"half")
                raise ConnectionError
            s3.download_file(bucket, key, path)

    with pytest.raises(ConnectionError):
        download(f"s3://{bucket}/models/tiny", tmp_path, Broken)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    first = {name: stamp for name, stamp in stamps(folder).items() if not name.endswith("1a2b3c4d")}
    assert len(first) == 2
    cut = folder / sorted(first)[0]
    cut.write_bytes(cut.read_bytes()[:-1])  # as after a power cut

    assert download(f"s3://{bucket}/models/tiny", tmp_path, lambda: s3) == folder

    assert files(folder) == files(TINY_CHECKPOINT)
    assert stamps(folder)[sorted(first)[1]] == first[sorted(first)[1]]


def test_a_key_can_not_lead_out_of_the_cache(s3: Any, bucket: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"

    class Hostile:
        """A bucket with keys that the S3 server of this test would not take."""

        def __getattr__(self, name: str) -> Any:
            return getattr(s3, name)

        def get_paginator(self, name: str) -> Any:
            pages = list(s3.get_paginator(name).paginate(Bucket=bucket, Prefix="models/tiny/"))
            keys = (f"models/tiny/{outside}", "models/tiny/../outside.json", "models/tiny/./config.json")
            evil = {"Contents": [{"Key": key, "ETag": "1", "Size": 9} for key in keys]}
            return SimpleNamespace(paginate=lambda **_: [*pages, evil])

    folder = download(f"s3://{bucket}/models/tiny", tmp_path / "cache", Hostile)

    assert files(folder) == files(TINY_CHECKPOINT)
    assert not outside.exists()


@pytest.mark.parametrize("half", ["", '{"vae/config.json": {"et'])
def test_half_a_record_is_none(s3: Any, bucket: str, tmp_path: Path, half: str) -> None:
    folder = download(f"s3://{bucket}/models/tiny", tmp_path, lambda: s3)
    (record,) = tmp_path.glob("*.json")
    record.write_text(half)

    assert files(download(f"s3://{bucket}/models/tiny", tmp_path, lambda: s3)) == files(TINY_CHECKPOINT)
    assert folder.name in record.name


def test_a_pointer_in_the_bucket_is_told(s3: Any, bucket: str, tmp_path: Path) -> None:
    s3.put_object(Bucket=bucket, Key=f"models/tiny/{WEIGHTS}", Body=b"version https://git-lfs.github.com/spec/v1\n")

    with pytest.raises(CheckpointError, match=f"/{WEIGHTS}: is a Git LFS pointer"):
        Checkpoint(download(f"s3://{bucket}/models/tiny", tmp_path, lambda: s3))


def test_errors_say_what_is_wrong(servers: Stack, s3: Any, bucket: str, tmp_path: Path) -> None:
    stranger, nowhere = s3_client(servers.s3_url, "stranger", "guessed"), s3_client("http://127.0.0.1:1", "a", "b")
    cases = [
        (f"s3://{bucket}-2/models", s3, f"s3://{bucket}-2/models: no such bucket"),
        (f"s3://{bucket}/empty", s3, "no checkpoint, expected model_index.json below this prefix"),
        (f"s3://{bucket}", s3, "no checkpoint"),
        (f"s3://{bucket}/models/tiny", stranger, "access denied"),
        (f"s3://{bucket}/models/tiny", nowhere, "127.0.0.1:1"),
        ("s3://", s3, "names no bucket, expected s3://bucket/prefix"),
    ]
    for url, client, complaint in cases:
        with pytest.raises(CheckpointError) as caught:
            download(url, tmp_path, lambda client=client: client)
        assert str(caught.value).startswith(url)
        assert complaint in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_cache_that_can_not_be_written_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"can't be kept in /proc/zimage \(ZIMAGE_CACHE_DIR\): No such file"):
        find_checkpoint(Settings(cache_dir="/proc/zimage"), "s3://models/tiny")


def test_the_worker_ends_with_the_reason(servers: Stack, tmp_path: Path) -> None:
    environ = {**os.environ, **servers.environ(), "ZIMAGE_MODEL": "s3://no-such-bucket/turbo"}
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "worker"],
        env={**environ, "ZIMAGE_CACHE_DIR": str(tmp_path), "ZIMAGE_DEVICE": "cpu", "ZIMAGE_METRICS_PORT": "0"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "zimage worker: ZIMAGE_MODEL: s3://no-such-bucket/turbo: no such bucket"
