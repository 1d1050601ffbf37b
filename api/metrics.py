"""The API's Prometheus metrics."""

from collections.abc import Iterator, Mapping

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from jobs.store.answers import Outcome

CLIENT_LEFT = 499  # nginx's status for a request whose client left; nobody reads the answer, but the metrics tell

METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS"})  # a series each; the others are `other`, together

http_request_seconds = Histogram("zimage_http_request_seconds", "HTTP requests.", ["route", "method", "status"])
jobs_submitted_total = Counter(
    "zimage_jobs_submitted_total",
    "Submits by outcome: created, replayed, mismatch, full, over_share, over_memory, too_fast, too_much, too_many.",
    ["outcome"],
)
key_refusals_total = Counter(
    "zimage_key_refusals_total",
    "Requests answered 429 by this process, by API key (anonymous: without a valid one) and the answer's code.",
    ["key", "code"],
)
webhook_deliveries_total = Counter(
    "zimage_webhook_deliveries_total",
    "Tries to deliver a webhook by outcome: delivered, failed (tried again later), dead (given up).",
    ["outcome"],
)
webhooks_pending = Gauge("zimage_webhooks_pending", "Webhooks that wait for delivery or for another try.")
workers = Gauge("zimage_workers", "Workers alive.")
dead_letters = Gauge(
    "zimage_dead_letters", "Jobs that lost worker after worker, until an operator retries or drops them."
)
redis_memory_used_bytes = Gauge("zimage_redis_memory_used_bytes", "Memory that Redis uses; NaN where it does not tell.")
redis_memory_max_bytes = Gauge("zimage_redis_memory_max_bytes", "Redis' maxmemory; 0: it has none.")
api_keys_file_ok = Gauge(
    "zimage_api_keys_file_ok",
    "0 while ZIMAGE_API_KEYS_FILE is missing or can't be read: keys taken out of it stay valid; else 1.",
)
jobs = Gauge("zimage_jobs", "Jobs in Redis by status.", ["status"])
oldest_queued_seconds = Gauge("zimage_oldest_queued_seconds", "Age of the oldest queued job; 0 when none waits.")


class JobsEnded(Collector):
    """A counter that Redis keeps: `counts` is what it has told last, empty while it does not answer."""

    counts: Mapping[Outcome, int] = {}

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the counter (prometheus_client)."""
        family = CounterMetricFamily(
            "zimage_jobs_ended", "Jobs ended since the first one; every API tells the same.", labels=["outcome", "code"]
        )
        for outcome, count in self.counts.items():
            family.add_metric(outcome, count)
        yield family


jobs_ended = JobsEnded()
REGISTRY.register(jobs_ended)
