"""What Redis may lose, and whether the service can work with it at all: read from its own INFO and CONFIG."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import redis

OLDEST_MAJOR = 7  # its scripts know flags: `#!lua flags=allow-oom`


@dataclass(frozen=True)
class Finding:
    """What one look found; `fail`: the service can't work so, `warn`: it may lose what it has accepted."""

    level: Literal["ok", "warn", "fail"]
    message: str


def examine(client: redis.Redis) -> list[Finding]:
    """Ask Redis how it keeps its data. Managed ones often refuse CONFIG, or all of it: told as a finding.

    Raises:
        redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: it can't be reached.
    """
    try:
        info = client.info()
    except redis.ResponseError as error:
        return [Finding("warn", f"INFO is refused ({error}): see to appendonly yes, noeviction and a primary yourself")]
    try:
        config = client.config_get("appendfsync", "save", "no-appendfsync-on-rewrite")
    except redis.ResponseError:
        config = {}
    return list(judge(info, config))


def judge(info: Mapping[str, Any], config: Mapping[Any, Any]) -> Iterator[Finding]:
    """Yield what to think of a Redis.

    Args:
        info: its INFO, as redis-py parses it.
        config: its `appendfsync`, `save` and `no-appendfsync-on-rewrite`; empty where it doesn't tell.
    """
    # Valkey tells here which Redis it is compatible with.
    if int(str(info["redis_version"]).split(".")[0]) < OLDEST_MAJOR:
        yield Finding("fail", f"version {info['redis_version']} can't run the scripts: take {OLDEST_MAJOR} or newer")
    if info.get("cluster_enabled"):
        yield Finding("fail", "it is a Cluster, which is not supported: take a single primary, cluster-enabled no")
    if info["role"] != "master":
        yield Finding("fail", f"it is a replica and takes no writes: name its primary, {_primary(info)}")
    yield _persistence(info, config)
    yield _memory(info)


def _primary(info: Mapping[str, Any]) -> str:
    return f"{info.get('master_host')}:{info.get('master_port')}"


def _persistence(info: Mapping[str, Any], config: Mapping[Any, Any]) -> Finding:
    if not info["aof_enabled"]:
        if config.get("save"):
            return Finding("warn", f"snapshots only (save {config['save']}): set appendonly yes, or lose jobs")
        return Finding("warn", "no append-only file: set appendonly yes, or a restart loses jobs")
    if info.get("aof_last_write_status", "ok") != "ok":
        return Finding("fail", "its last write to the append-only file failed: look at its disk")
    if config.get("no-appendfsync-on-rewrite") == "yes":
        return Finding(
            "warn", "no-appendfsync-on-rewrite yes: while the file is rewritten nothing is synced, set it to no"
        )
    match config.get("appendfsync"):
        case "always":
            return Finding("ok", "appendonly yes, appendfsync always: a power cut loses nothing")
        case "everysec":
            lost = "a power cut, or a kill while its disk is busy, may lose the last 1 to 2 s; always loses nothing"
            return Finding("ok", f"appendonly yes, appendfsync everysec: {lost}")
        case "no":
            lost = "a power cut may lose the last half minute: set everysec or always"
            return Finding("warn", f"appendonly yes, but appendfsync no: {lost}")
        case _:
            return Finding("warn", "appendonly yes, but appendfsync can't be read: see that it is everysec or always")


def _memory(info: Mapping[str, Any]) -> Finding:
    policy = info["maxmemory_policy"]
    if not info["maxmemory"]:
        killed = "Redis grows until the system kills it"
        return Finding("warn", f"maxmemory 0, so {killed}: set it well below the machine's memory")
    if policy == "noeviction":
        return Finding("ok", "maxmemory-policy noeviction: full memory refuses new jobs and keeps the others")
    if policy.startswith("allkeys-"):
        return Finding("warn", f"maxmemory-policy {policy} drops jobs when memory is full: set noeviction")
    forgotten = "Idempotency-Keys and with them that a job was posted before"
    return Finding("warn", f"maxmemory-policy {policy} drops {forgotten}, when memory is full: set noeviction")
