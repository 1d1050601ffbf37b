"""Every setting of the service: one class, read from `ZIMAGE_*` environment variables.

The README's table is made from this class (`python -m jobs.settings`). S3 credentials are not settings of ours: they
come from boto3's usual chain (`AWS_ACCESS_KEY_ID`, profiles, instance roles).
"""

import base64
import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from jobs.addresses import servers, storage, web
from jobs.addresses.redis_url import RedisAddress, read
from jobs.reading import word_or_json
from jobs.step_cache import StepCache
from network import certificates

Revision = Annotated[str, AfterValidator(storage.revision)]
Checkpoint = Annotated[str, AfterValidator(storage.checkpoint)]
Endpoint = Annotated[str, AfterValidator(storage.s3_endpoint)]
File = Annotated[Path, BeforeValidator(storage.not_empty)]
Host = Annotated[str, AfterValidator(servers.listening_host)]


def _read_from_text(value: object) -> object:
    return word_or_json(value) if isinstance(value, str) else value


def _signing_secret(secret: SecretStr) -> SecretStr:
    prefix, key = secret.get_secret_value()[:6], secret.get_secret_value()[6:]
    try:
        length = len(base64.b64decode(key, validate=True)) if prefix == "whsec_" else 0
    except ValueError:  # binascii.Error is one
        length = 0
    if not 24 <= length <= 64:
        raise ValueError("must be whsec_ and 24 to 64 bytes in base64: echo whsec_$(head -c 32 /dev/urandom | base64)")
    return secret


class Settings(BaseSettings):
    """The service's settings; each field is the environment variable `ZIMAGE_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="ZIMAGE_", extra="ignore", hide_input_in_errors=True)

    # Model and device
    model: Checkpoint = Field(
        "tiny", description="`tiny` (bundled), a checkpoint directory, a hub id, or `s3://bucket/prefix`"
    )
    vae: Checkpoint | None = Field(None, description="another VAE: its directory, or a checkpoint as in `ZIMAGE_MODEL`")
    model_revision: Revision | None = Field(
        None,
        description="commit, tag or branch of the hub that a hub id in `ZIMAGE_MODEL` is taken at; else `main`",
    )
    vae_revision: Revision | None = Field(None, description="the same for a hub id in `ZIMAGE_VAE`")
    device: str = Field(
        "auto",
        description="`gpu`: one that no other worker of this machine has taken, with the most free memory, or none "
        "at all; `auto`: the same, shared if all are taken, and the CPU for the bundled model if there is none; `cpu`, "
        "`cuda`, `cuda:N`",
    )
    quantization: str = Field(
        "none",
        description="`fp8`: matrices in 8 bits, for NVIDIA GPUs of Ada, Hopper or newer; quicker and half the memory; "
        "`none`: as the checkpoint is stored",
    )
    vram_budget: str | None = Field(
        None,
        description="GPU memory that a worker keeps within, such as `8GiB`: weights without room there wait in RAM "
        "([GPU memory](docs/operations.md#gpu-memory)); unset: all that is free",
    )
    residency: str | None = Field(
        None,
        description="where weights are while they are not at work, for parts that are not to be left to the budget: "
        "`transformer=layers,text_encoder=whole,vae=resident` ([what each does](docs/accelerations.md#residency))",
    )
    cache_dir: Annotated[File, AfterValidator(storage.folder)] = Field(
        default_factory=lambda: Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "zimage"),
        description="checkpoints from S3, compiled kernels (on a disk of this machine alone: else in its temporary "
        "directory) and locks on GPUs; unset: `zimage` in `XDG_CACHE_HOME`, or in `~/.cache`",
    )

    log_format: Literal["text", "json"] = Field(
        "text",
        description="`text`: for people; `json`: an object a line, with the ids of job and trace "
        "([Logs and traces](docs/operations.md#logs-and-traces))",
    )

    # Redis
    redis_url: Annotated[RedisAddress, NoDecode, PlainValidator(read)] = Field(
        RedisAddress(),
        description="Redis or Valkey 7+: `redis://`, `rediss://` (TLS) or `unix://` "
        "([addresses](docs/operations.md#addresses))",
    )
    redis_prefix: str = Field("zimage:", description="prefix of every key, so that services can share a Redis")

    # S3
    s3_endpoint: Endpoint | None = Field(
        None, description="S3 endpoint as this process reaches it; unset: boto3's, or AWS"
    )
    s3_public_endpoint: Endpoint | None = Field(
        None, description="S3 endpoint as clients reach it, named in presigned URLs; unset: the same"
    )
    s3_bucket: Annotated[str, AfterValidator(storage.bucket)] = Field(
        "zimage", validate_default=True, description="bucket for the images; it must exist"
    )
    s3_prefix: Annotated[str, AfterValidator(storage.prefix)] = Field(
        "jobs", description="key prefix within the bucket"
    )
    s3_region: Annotated[str, AfterValidator(storage.region)] = Field(
        "us-east-1", description="region used for signing"
    )
    url_ttl: int = Field(3600, ge=60, le=604800, description="seconds that a presigned URL is valid")

    ca_bundle: Annotated[File, AfterValidator(certificates.bundle)] | None = Field(
        None,
        description="PEM file of authorities trusted besides the usual ones: for Redis, S3, webhooks and the hub",
    )

    # API
    host: Host = Field(
        "127.0.0.1", description="address that the API listens on; `::`: all of this machine's, of IPv6 and IPv4"
    )
    port: int = Field(8000, ge=0, le=65535, description="port that the API listens on")
    keep_alive_seconds: int = Field(
        75,
        ge=1,
        description="seconds that an idle connection is kept open: longer than a balancer in front keeps its own "
        "([why](docs/operations.md#keys-and-tls))",
    )
    connections_per_address: int | None = Field(
        None,
        ge=1,
        description="connections that one client address (of IPv6 its /64 network) may have open; unset: half of what "
        "there is room for ([room](docs/operations.md#room-for-connections))",
    )
    api_keys_file: File | None = Field(
        None, description="file of API keys (`zimage keys create`): every request needs one then; unset: no keys"
    )
    allow_anonymous: bool = Field(False, description="serve without keys on an address that is not loopback")
    allowed_hosts: Annotated[str, AfterValidator(servers.host_names)] | None = Field(
        None,
        description="without keys: names, separated by commas, by which the service may be called besides `localhost` "
        "and addresses, lest a web page comes by a name of its own",
    )
    cors_origins: Annotated[str, AfterValidator(web.origins)] | None = Field(
        None,
        description="origins, separated by commas, whose pages may call the service from a browser, such as "
        "`https://app.example`; `*`: all, where keys are asked for",
    )
    root_path: Annotated[str, AfterValidator(web.root_path)] | None = Field(
        None,
        description="path below which a reverse proxy shows the service, such as `/zimage`; unset: what a trusted "
        "proxy says in `X-Forwarded-Prefix` ([how](docs/operations.md#behind-a-reverse-proxy))",
    )
    model_aliases: str | None = Field(
        None,
        description="further names of the model for OpenAI's clients, separated by commas, such as "
        "`gpt-image-1,dall-e-3`; `Tongyi-MAI/Z-Image-Turbo` and `default` always are names of it",
    )
    step_cache: Annotated[StepCache, NoDecode, BeforeValidator(_read_from_text)] = Field(
        "off",
        description="`step_cache` of jobs that name none: `off`, `quality`, `fast`, or its parameters as JSON; `off` "
        "for those that it does not fit ([what it does](docs/accelerations.md))",
    )
    max_work: int = Field(1024 * 1024 * 50 * 8, ge=1, description="largest pixels × steps × images of one job")
    queue_limit: int = Field(10_000, ge=1, description="queued jobs beyond which submits are answered 503")
    reads_per_second: int = Field(
        100,
        ge=1,
        description="reads of one key that an API process answers, of a list 5 jobs "
        "([limits of a process](docs/operations.md#limits-of-a-process))",
    )
    refusals_per_second: int = Field(
        10, ge=1, description="requests of one key that an API process refuses (4xx); beyond, it answers 429 at once"
    )
    streams_per_key: int = Field(
        500, ge=1, description="event streams and waits that an API process holds open for one key"
    )

    # Webhooks
    webhook_secret: Annotated[SecretStr, AfterValidator(_signing_secret)] | None = Field(
        None,
        description="signs webhooks (Standard Webhooks): `whsec_` and 24 to 64 random bytes in base64; unset: "
        "`webhook_url` is refused",
    )
    webhook_common_signature: bool = Field(
        True,
        description="sign the webhooks of keys' jobs with `ZIMAGE_WEBHOOK_SECRET` itself too, as receivers of earlier "
        "releases expect it; `false` in new services ([why](docs/operations.md#webhook-secrets))",
    )
    webhook_allow_private: bool = Field(
        False, description="deliver webhooks to private, loopback and link-local addresses too"
    )

    # A job's life
    queue_ttl: int = Field(86_400, ge=1, description="seconds after which a job still queued is expired")
    job_ttl: int = Field(
        604_800,
        ge=1,
        description="seconds that an ended job and its images are kept; a canceled or expired one a day at most",
    )
    tombstone_ttl: int = Field(604_800, ge=1, description="seconds that a deleted job is answered 410 instead of 404")
    idempotency_ttl: int = Field(86_400, ge=1, description="seconds that an Idempotency-Key is remembered")
    priority_seconds: int = Field(60, ge=0, description="how much earlier `high` and later `low` jobs are sorted")
    lease_seconds: float = Field(30.0, ge=1, description="a worker silent for longer loses its job")
    startup_timeout: float = Field(60.0, ge=0, description="seconds to wait at start for Redis, S3 and a free GPU")

    # Worker
    worker_slots: int = Field(3, ge=1, le=16, description="jobs that one worker handles at once (one on the GPU)")
    drain_seconds: float = Field(60.0, ge=0, description="seconds to finish at SIGTERM before jobs are handed back")
    hold_seconds: float = Field(
        300.0, ge=0, description="seconds that a finished image is held while S3 or Redis is away"
    )
    step_timeout: float = Field(
        300.0, ge=1, description="a worker whose denoising step takes longer gives its job up and starts anew"
    )
    metrics_port: int = Field(
        9100, ge=0, le=65535, description="port of the worker's /metrics, /livez and /readyz; 0: any free port"
    )
    metrics_host: Host = Field("127.0.0.1", description="address of the same")

    @field_validator("*", mode="before")
    @classmethod
    def _in_one_line(cls, value: object) -> object:
        if isinstance(value, str) and re.search(r"[\x00-\x1f\x7f]", value):
            raise ValueError("holds a line end, or another control character: leave it out")
        return value


def markdown_table() -> str:
    """Return the README's table of settings."""
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = "–" if field.default is None or field.default_factory else f"`{field.default}`"
        rows.append(f"| `ZIMAGE_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(markdown_table())
