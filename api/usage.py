"""What each API key has and has had of the service, as Prometheus is told it."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import accumulate

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from jobs.keys import RESERVED, KeyRing
from jobs.limits import NO_LIMITS, Limits
from jobs.store.answers import Usage

REVOKED = "(revoked)"  # no key can be named so


def limits_by_owner(keys: KeyRing | None) -> dict[str, Limits]:
    """Return the limits of all who may have jobs; without keys of one alone."""
    return {RESERVED: NO_LIMITS} | {key.name: key for key in (keys.entries() if keys else ())}


class KeyUsage(Collector):
    """Tells what it was shown last; nothing of before, once it was shown nothing.

    A series for each key: those that are not in the keys file any more are told as one, and only what they have now.
    What they have had would seem to come all at once, on the day on which they are revoked.
    """

    def __init__(self) -> None:
        self._usage: Mapping[str, list[Usage]] = {}
        self._limits: Mapping[str, Limits] = {}
        self._free: Mapping[str, float] = {}

    def show(self, usage: Mapping[str, Usage], limits: Mapping[str, Limits], free: Mapping[str, float]) -> None:
        """Take in what is to be told.

        Args:
            usage: by owner.
            limits: of those who may have jobs.
            free: jobs and bytes that there is room for, as `queue` and, where it is known, `memory`.
        """
        by_key = defaultdict(list)
        for owner, used in usage.items():
            by_key[owner if owner in limits else REVOKED].append(used)
        self._usage, self._limits, self._free = by_key, limits, free

    def collect(self) -> Iterator[Metric]:
        """Yield the series (prometheus_client)."""
        yield from self._now()
        yield from self._so_far()

    def _now(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("zimage_key_jobs", "Jobs queued and running, by API key.", labels=["key", "status"])
        work = GaugeMetricFamily("zimage_key_queued_work", "Work of the queued jobs, by API key.", labels=["key"])
        oldest = GaugeMetricFamily(
            "zimage_key_oldest_queued_seconds", "Age of the oldest queued job, 0 when none waits.", labels=["key"]
        )
        kept = GaugeMetricFamily("zimage_key_kept_bytes", "Redis' memory that jobs and webhooks take.", labels=["key"])
        share = GaugeMetricFamily(
            "zimage_key_share_used_ratio",
            "Of what the key may take beside the others by its share.",
            labels=["key", "of"],
        )
        for key, several in self._usage.items():
            jobs.add_metric([key, "queued"], sum(used.queued for used in several))
            jobs.add_metric([key, "running"], sum(used.running for used in several))
            work.add_metric([key], sum(used.queued_work for used in several))
            oldest.add_metric([key], max(used.oldest_queued_seconds for used in several))
            kept.add_metric([key], sum(used.kept_bytes for used in several))
        for key, used in self._keys():
            taken = {"queue": used.queued, "memory": used.kept_bytes}
            for of, free in self._free.items():
                share.add_metric([key, of], self._limits[key].share_used(taken[of], free))
        yield from (jobs, work, oldest, kept, share)

    def _so_far(self) -> Iterator[Metric]:
        ended = CounterMetricFamily("zimage_key_jobs_ended", "Jobs ended, by API key.", labels=["key", "outcome"])
        work = CounterMetricFamily("zimage_key_work", "Work of the jobs that succeeded, by API key.", labels=["key"])
        waits = HistogramMetricFamily("zimage_key_wait_seconds", "Waits in the queue, by API key.", labels=["key"])
        for key, used in self._keys():
            for status, count in used.ended.items():
                ended.add_metric([key, status], count)
            work.add_metric([key], used.drawn_work)
            bounds = ["+Inf" if math.isinf(bound) else str(bound) for bound in used.waits]
            buckets = list(zip(bounds, accumulate(used.waits.values()), strict=True))
            waits.add_metric([key], buckets, used.waited_seconds)
        yield from (ended, work, waits)

    def _keys(self) -> Iterator[tuple[str, Usage]]:
        for key, several in self._usage.items():
            if key != REVOKED:
                yield key, several[0]


key_usage = KeyUsage()
REGISTRY.register(key_usage)
