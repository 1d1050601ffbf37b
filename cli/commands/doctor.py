"""`zimage doctor`: what of this machine and configuration would keep the service from working, and what to do."""

import platform
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import typer

from cli import options
from cli.checked_settings import load_settings
from cli.errors import ExitCode, UserError
from cli.results import print_json
from jobs.addresses import SettingError
from network.proxies import ProxyError, through

if TYPE_CHECKING:
    import httpx
    import torch

    from jobs.objects.images import ImageStore
    from jobs.settings import Settings

GIB = 1024**3
SCARCE_BYTES = 5 * GIB
FULL_BYTES = GIB // 2
PICTURE_BYTES = 3 * 1024**2  # of 1024×1024 that doesn't compress: proxies and quotas may refuse it, and take less


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    level: Literal["ok", "warn", "fail"]
    message: str


def doctor(as_json: options.Json = False, data: options.Running = None) -> None:
    """Check this machine, the settings, Redis, S3 and the model; exit code 1 if a check fails."""
    findings = []
    for finding in _examine(data):
        findings.append(finding)
        if not as_json:
            print(f"{finding.level:<5} {finding.check:<9} {finding.message}", flush=True)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    if any(finding.level == "fail" for finding in findings):
        raise typer.Exit(ExitCode.REFUSED)


def _examine(data: Path | None) -> Iterator[Finding]:
    yield Finding("python", "ok", platform.python_version())
    yield from _torch()
    yield from _disk()
    try:
        settings = load_settings(data)
    except UserError as error:
        yield Finding("settings", "fail", str(error))
        return
    yield Finding("settings", "ok", "valid")
    checks: list[Callable[[Settings], Iterator[Finding]]] = [_device, _redis, _s3, _model, _keys, _traces]
    for check in checks:
        try:
            yield from check(settings)
        except (ProxyError, SettingError) as error:
            yield Finding("settings", "fail", str(error))


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except ModuleNotFoundError:
        yield Finding("torch", "warn", "not installed: workers need it (pip install 'zimage-service[worker]')")
        return
    except (ImportError, OSError) as error:
        yield Finding("torch", "fail", f"{_one_line(error)}: the installation is not whole: install it anew")
        return
    from pipeline.driver import UnfitGpuError, check_capability, why_none

    yield Finding("torch", "ok", str(torch.__version__))
    if why := why_none():
        yield Finding("gpu", "warn", f"{why}; on the CPU workers draw slowly")
        return
    for index in range(torch.cuda.device_count()):
        try:
            check_capability(torch.device("cuda", index))
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
        except UnfitGpuError as error:
            yield Finding("gpu", "warn", str(error))
        except RuntimeError as error:
            yield Finding("gpu", "fail", f"cuda:{index}: {_one_line(error)}: see what nvidia-smi says")
        else:
            yield Finding("gpu", "ok", f"cuda:{index} {name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free")


def _one_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _device(settings: "Settings") -> Iterator[Finding]:
    """Choose a device, and try it, as a worker does at its start."""
    try:
        from pipeline.driver import UnfitGpuError, why_none
        from pipeline.faults import multiply
        from pipeline.formats.registry import find
        from worker.executor.device_choice import AllTakenError, choose_device
        from worker.obstacles import obstacle, unforeseen
    except (ImportError, OSError):
        return  # told of already
    device = None
    try:
        device = choose_device(settings)
        multiply(device)
    except Exception as error:  # noqa: BLE001
        found = obstacle(error, settings, device) or unforeseen(error)
        # `auto` asks for no GPU: `zimage up` and `zimage generate` draw here all the same, on the CPU.
        no_gpu = isinstance(error, UnfitGpuError) and settings.device == "auto" and why_none()
        yield Finding("device", "warn" if no_gpu or isinstance(error, AllTakenError) else "fail", found.line)
        return
    number_format = find(settings.quantization)
    product = f" (product {number_format.product(device)})" if number_format else ""
    yield Finding("device", "ok", f"workers draw on {device}, quantization {settings.quantization}{product}")
    if device.type == "cuda":
        yield from _needs(settings, device)


def _needs(settings: "Settings", device: "torch.device") -> Iterator[Finding]:
    """What a worker finds out only once it has loaded its model: a compiler for its kernels, memory to draw."""
    from jobs.model_card import TINY, served_name
    from worker.executor import compiler
    from worker.executor.gpu_memory import free_and_total

    if told := compiler.missing():
        yield Finding("compiler", "fail", told)
    else:
        yield Finding("compiler", "ok", "a C compiler and Python's headers are there")
    if served_name(settings.model) == TINY:
        return
    yield _memory(settings, *free_and_total(device))


def _memory(settings: "Settings", free: int, total: int) -> Finding:
    """Make the plan that a worker would make for Z-Image-Turbo, with this much of a GPU's memory."""
    from pipeline.memory_plan import BudgetError, parse_budget, parse_residency, plan, plan_for_free
    from worker.executor.gpu_memory import told_needs, turbo

    sizes, there = turbo(settings.quantization), f"{free / GIB:.1f} of {total / GIB:.1f} GiB are free"
    budget = parse_budget(settings.vram_budget) if settings.vram_budget else None
    residency = parse_residency(settings.residency) if settings.residency else None
    unset = budget is None and not residency
    try:
        made = plan_for_free(sizes, free) if unset else plan(sizes, budget, residency=residency)
    except BudgetError as error:
        if budget:
            return Finding("memory", "fail", f"ZIMAGE_VRAM_BUDGET: {error}")
        told = f"{there}: {told_needs(settings.quantization)}"
        return Finding("memory", "warn" if error.least_bytes <= total else "fail", told)
    if made.peak_bytes() > free or (unset and made.offloads and not plan_for_free(sizes, total).offloads):
        return Finding("memory", "warn", f"{there}, nvidia-smi tells why: {made}")
    return Finding("memory", "ok", f"{there}: {made}")


def _redis(settings: "Settings") -> Iterator[Finding]:
    import redis

    from jobs.addresses import authorities
    from jobs.store.durability import examine
    from jobs.store.redis_client import connect

    address = settings.redis_url
    try:
        with connect(settings) as client:
            client.ping()
            server = client.info("server")
            findings = examine(client)
    except redis.RedisError as error:
        told = authorities.told(error, otherwise="start it, or set ZIMAGE_REDIS_URL")
        yield Finding("redis", "fail", f"{address.place}: {told}")
        return
    version = server.get("valkey_version") or server["redis_version"]
    yield Finding("redis", "ok", f"{server.get('server_name', 'redis')} {version} at {address.place}")
    if address.unverified:
        yield Finding("redis", "warn", address.unverified)
    for finding in findings:
        yield Finding("redis", finding.level, finding.message)


def _s3(settings: "Settings") -> Iterator[Finding]:
    """Try each operation that the service asks of S3, on an object of its own, and look at what comes of it."""
    from jobs.objects.images import ImageStore
    from jobs.objects.refusals import STORAGE_ERRORS, told

    images = ImageStore(settings)
    address = f"bucket {settings.s3_bucket} at {images.endpoint}{through(images.endpoint)}"
    probe = f"doctor-{secrets.token_hex(8)}"
    key, content = images.key(probe, attempt=0, index=0), secrets.token_bytes(PICTURE_BYTES)
    operations: list[tuple[str, Callable[[], object]]] = [
        ("can't be used", images.check),
        ("takes no images", lambda: images.put_png(key, content)),
        ("can't be listed", lambda: key in images.listed(probe)),
        ("gives no images back", lambda: images.get_png(key, len(content) + 1) == content),
    ]
    answers = []
    for fault, operation in operations:
        try:
            answers.append(operation())
        except STORAGE_ERRORS as error:
            yield Finding("s3", "fail", f"{address} {fault}: {told(error)}")
            if fault in ("can't be used", "takes no images"):
                return  # there is nothing to go on with
    url = images.presign(key)
    if len(answers) == len(operations):
        *_, listed, same = answers
        if not same:
            yield Finding("s3", "fail", f"{address} gives back other bytes than it took")
        elif not listed:
            yield Finding("s3", "warn", f"{address}: written to and read, and what was written is not listed yet")
        else:
            yield Finding("s3", "ok", f"{address}: written to, listed and read")
        yield _presigned(url, content)
    yield from _removals(images, address, key, url)


def _presigned(url: str, content: bytes) -> Finding:
    import httpx

    host = urlsplit(url).netloc
    try:
        signed, unsigned = _get(url), _get(url.partition("?")[0])
    except httpx.TransportError as error:
        return Finding("s3", "warn", f"presigned URLs name {host}, not reachable from here{through(url)}: {error}")
    if signed.content != content:
        answered = "with other bytes" if signed.is_success else signed.status_code
        return Finding("s3", "fail", f"a presigned URL is answered {answered}: see ZIMAGE_S3_PUBLIC_ENDPOINT")
    if unsigned.content == content:
        return Finding("s3", "warn", "anyone can read the images: make the bucket private")
    return Finding("s3", "ok", f"presigned URLs work, and {host} refuses unsigned ones")


def _get(url: str) -> "httpx.Response":
    import httpx

    from zimage.transports import Transport

    with httpx.Client(transport=Transport()) as http:
        return http.get(url)


def _removals(images: "ImageStore", address: str, key: str, url: str) -> Iterator[Finding]:
    import httpx

    from jobs.objects.refusals import STORAGE_ERRORS, told
    from jobs.objects.removal import NotUnderstoodError, StillThereError

    def refusal(remove: "Callable[[list[str]], dict[str, StillThereError]]") -> str | None:
        try:
            left = remove([key]).get(key)
        except STORAGE_ERRORS as error:
            return told(error)
        except NotUnderstoodError as error:
            return str(error)
        return left.reason if left else None

    def is_there() -> bool:
        with suppress(*STORAGE_ERRORS):
            return bool(images.get_png(key, 1))
        return False

    many = refusal(images.removal.at_once)
    kept = not many and is_there()
    one = refusal(images.removal.one_by_one)
    if many and one:
        yield Finding("s3", "fail", f"{address} takes no removals: {one}")
    elif kept or (not one and is_there()):
        yield Finding("s3", "fail", f"{address} says of an object that it was removed, and still gives it")
    else:
        ways = [way for way, refused in (("many at once", many), ("one by one", one)) if not refused]
        note = f"; the other way is refused: {many or one}" if many or one else ""
        yield Finding("s3", "ok", f"{address}: removed from, {' and '.join(ways)}{note}")
        with suppress(httpx.TransportError):  # told of by _presigned
            if _get(url).is_success:
                yield Finding("s3", "warn", "a deleted object can still be read")


def _model(settings: "Settings") -> Iterator[Finding]:
    yield _checkpoint(settings, "model", settings.model, settings.model_revision)
    if settings.vae is not None:
        yield _checkpoint(settings, "vae", settings.vae, settings.vae_revision)


def _checkpoint(settings: "Settings", part: Literal["model", "vae"], name: str, revision: str | None) -> Finding:
    """Look at a checkpoint as far as that is quick: the hub is not asked, and of a bucket's one its list alone is."""
    from jobs.model_card import TINY
    from jobs.objects.s3_client import connect

    try:
        from pipeline import CheckpointError
        from pipeline.checkpoint.components import Checkpoint, autoencoder_weights
        from pipeline.checkpoint.s3 import objects_of
        from pipeline.checkpoint.sources import S3_SCHEME, is_hub_id
    except ModuleNotFoundError:
        return Finding(part, "warn", f"{name}: not looked at without torch")

    root, setting = Path(name), f"ZIMAGE_{part.upper()}"
    try:
        if is_hub_id(name, revision):
            return Finding(part, "ok", f"{name}, {revision or 'main'}, from the hub or its cache")
    except CheckpointError as error:
        return Finding(part, "fail", f"{error}: see {setting}_REVISION")
    if name == TINY:
        return Finding(part, "ok", "tiny, the bundled one")
    if root.is_dir():
        try:
            if part == "model":
                Checkpoint(root)  # as a worker does at its start, but for the weights themselves
            else:
                autoencoder_weights(root / "vae" if (root / "vae").is_dir() else root)
        except CheckpointError as error:
            return Finding(part, "fail", f"{error}: see {setting}")
        return Finding(part, "ok", f"{root}")
    if name.startswith(S3_SCHEME):
        try:
            objects = objects_of(name, lambda: connect(settings, settings.s3_endpoint, attempts=1))
        except CheckpointError as error:
            return Finding(part, "fail", f"{error}: see {setting}")
        size = sum(found["bytes"] for found in objects.values()) / GIB
        kept = f"kept in {settings.cache_dir} (ZIMAGE_CACHE_DIR)"
        return Finding(part, "ok", f"{name}, {len(objects)} files of {size:.2f} GiB in S3; {kept}")
    expected = "no such directory, no hub id org/name, and not s3://bucket/prefix"
    return Finding(part, "fail", f"{setting}={name}: {expected}")


def _keys(settings: "Settings") -> Iterator[Finding]:
    from jobs.keys import KeysFile, KeysFileError

    if settings.api_keys_file is None:
        return
    try:
        count = len(KeysFile(settings.api_keys_file).read())
    except KeysFileError as error:
        yield Finding("keys", "fail", f"ZIMAGE_API_KEYS_FILE: {error}")
    else:
        yield Finding("keys", "ok", f"{count} in {settings.api_keys_file}")


def _traces(_settings: "Settings") -> Iterator[Finding]:
    from jobs.telemetry import trace_export

    try:
        receiver = trace_export.receiver()
    except ValueError as error:
        yield Finding("traces", "fail", str(error))
    else:
        if receiver:
            yield Finding("traces", "ok", f"sent to where {receiver} says")


def _disk() -> Iterator[Finding]:
    folder = options.DEFAULT_DATA.absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    message = f"{free / GIB:.1f} GiB free for {folder}, where `zimage up` keeps its data"
    if free < SCARCE_BYTES:
        level: Literal["warn", "fail"] = "fail" if free < FULL_BYTES else "warn"
        yield Finding("disk", level, f"{message}: make room, or give `zimage up` another --data")
    else:
        yield Finding("disk", "ok", message)
