"""The worker process: waits for its servers, loads and warms the pipeline, then hears the doorbell.

Celery starts last, in this same process: an error in Celery's own start-up handlers is swallowed, so loading there
would let a worker without a model take jobs.
"""

import logging
import os
import secrets
import socket
import sys
import time

import redis
import torch

from jobs.addresses.listening import in_url
from jobs.doorbell import celery_app
from jobs.exit_codes import ProgramExit
from jobs.model_card import ModelCard, size_limits
from jobs.objects.images import ImageStore
from jobs.reaper import Reaper
from jobs.settings import Settings
from jobs.spec import ABILITIES
from jobs.startup import wait_for_redis, wait_for_s3
from jobs.store.redis_client import connect
from jobs.store.worker import WorkerStore
from jobs.telemetry import trace_export
from jobs.telemetry.logs import configure_logging
from worker import metrics
from worker.caretaker import look_for_work
from worker.celery_worker import hear_the_bell
from worker.claims.admission import Admission
from worker.claims.departure import Departure
from worker.claims.ending import Ending
from worker.claims.leases import Leases
from worker.claims.progress import ProgressReporter
from worker.delivery import Delivery
from worker.executor.device_choice import choose_device
from worker.executor.executor import Executor, Loaded
from worker.executor.thread import DeviceThread
from worker.executor.watchdog import watch
from worker.health import Health
from worker.loading import load_pipeline, local_folder
from worker.observers.fan_out import FanOut
from worker.observers.log_and_spans import LogAndSpans
from worker.observers.prometheus import Prometheus
from worker.obstacles import obstacle, unforeseen
from worker.plan import plan_card, room, tell_metrics
from worker.run import JobRunner
from worker.shutdown import drain_at_shutdown

log = logging.getLogger(__name__)

S3_ATTEMPTS = 2  # at a request, 10 s each: the worker tries again by itself, and looks at cancel and deadline between


def run(settings: Settings) -> int:
    """Serve jobs until SIGTERM or SIGINT; return the exit code. What keeps it from starting is one line on stderr."""
    configure_logging(settings.log_format)
    trace_export.start("zimage-worker")
    started = time.monotonic()
    client, images = connect(settings), ImageStore(settings, S3_ATTEMPTS)
    device: torch.device | None = None
    try:
        health = Health(settings)
        log.info("metrics at http://%s:%d/metrics", in_url(settings.metrics_host), health.port)
        wait_for_redis(client, settings)
        wait_for_s3(images, settings)
        chosen = device = choose_device(settings, settings.startup_timeout)
        executor = DeviceThread(lambda: load_pipeline(settings, chosen))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001  # what Rust's libraries panic with is no Exception
        return _give_up(error, settings, device)
    card = _card(executor.loaded, local_folder(settings), time.monotonic() - started)
    _tell_metrics(executor.loaded, card)
    _serve(settings, client, images, health, executor, card)
    return ProgramExit.STOPPED


def _give_up(error: BaseException, settings: Settings, device: torch.device | None) -> int:
    """Say why this worker can't start, and return the exit code that says so too."""
    found = obstacle(error, settings, device)
    if found is None:
        found = unforeseen(error)
        log.error("not started", exc_info=error)
    print(f"zimage worker: {found.line}", file=sys.stderr)
    return found.code


def _serve(
    settings: Settings, client: redis.Redis, images: ImageStore, health: Health, executor: Executor, card: ModelCard
) -> None:
    """Build the parts in the order in which they need each other, start them, hear the doorbell, stop them."""
    worker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    store = WorkerStore(client, settings)
    log_and_spans = LogAndSpans()
    observers = FanOut(Prometheus(), log_and_spans)
    delivery = Delivery(images, card.name, settings.hold_seconds)
    leases = Leases(store, worker, card, executor.rate, delivery.trouble, settings.lease_seconds)
    departure = Departure(leases, store, log_and_spans)  # the process ends: nobody would read its metrics
    admission = Admission(store, worker, card, leases, departure, delivery.ready)
    ending = Ending(store, images, departure, observers, settings.hold_seconds)
    runner = JobRunner(admission, executor, ProgressReporter(store), delivery, ending, observers)
    reaper = Reaper(client, images, celery_app(settings), settings)

    drain_at_shutdown(departure, admission.draining, settings.drain_seconds)
    watch(executor, settings.step_timeout, departure.leave_hung)
    leases.start()
    reaper.start()
    health.warm(leases, admission.draining, delivery.trouble)
    precision = f"{card.quantization} ({card.product})" if card.quantization else card.precision
    serving = f"{card.name}, {precision} on {executor.loaded.device}"
    log.info("worker %s ready after %.1f s: %s", worker, card.load_seconds, serving)
    look_for_work(leases, runner.run)
    hear_the_bell(settings, runner.run, admission.draining, worker)

    admission.finish()  # Celery has waited for its own threads' jobs, not for the caretaker's
    reaper.stop()
    leases.stop()
    executor.close()
    trace_export.flush()


def _card(loaded: Loaded, path: str | None, load_seconds: float) -> ModelCard:
    sizes, plan = size_limits(loaded.model), loaded.plan
    return ModelCard(
        **sizes.model_dump(),
        name=loaded.model,
        commit=loaded.commit,
        precision=loaded.precision,
        quantization=loaded.quantization,
        product=loaded.product,
        path=path,
        load_seconds=load_seconds,
        plan=plan_card(plan) if plan else None,
        room=room(plan, sizes.max_size**2) if plan else None,
        abilities=ABILITIES,
    )


def _tell_metrics(loaded: Loaded, card: ModelCard) -> None:
    metrics.model_load_seconds.set(card.load_seconds)
    quantization, product = loaded.quantization or "none", loaded.product or "none"
    metrics.worker_info.labels(loaded.model, loaded.device, quantization, product).set(1)
    if card.plan:
        tell_metrics(card.plan)
    if loaded.vram_bytes:
        metrics.vram_total_bytes.set(loaded.vram_bytes)
        metrics.vram_reserved_bytes.set_function(lambda: torch.cuda.memory_reserved(loaded.device))
