"""The worker process: waits for its servers, loads and warms the pipeline on the GPU thread, then hears the doorbell.

Celery starts last, in this same process: an error in Celery's own start-up handlers is swallowed, so loading there
would let a worker without a model take jobs.
"""

import logging
import os
import secrets
import socket
import sys
import time

import torch

from jobs.doorbell import celery_app
from jobs.model_card import ModelCard, size_limits
from jobs.objects.images import ImageStore
from jobs.reaper import Reaper
from jobs.settings import Settings
from jobs.spec import ABILITIES
from jobs.startup import UnreachableError, wait_for_redis, wait_for_s3
from jobs.store.redis_client import connect
from jobs.store.worker import WorkerStore
from jobs.telemetry import trace_export
from jobs.telemetry.logs import configure_logging
from pipeline import CheckpointError, ZImagePipeline
from worker import metrics
from worker.app import hear_the_bell
from worker.caretaker import look_for_work
from worker.delivery import Delivery
from worker.executor.drawing import Artist
from worker.executor.thread import GpuThread
from worker.health import Health
from worker.leases import Leases
from worker.leaving import Departure, drain_at_shutdown, watch_device
from worker.loading import load_pipeline
from worker.progress import ProgressReporter
from worker.run import JobRunner

log = logging.getLogger(__name__)

WARM_UP_STEPS = 2
S3_ATTEMPTS = 2  # at a request, 10 s each: the worker tries again by itself, and looks at cancel and deadline between


def run(settings: Settings) -> int:
    """Serve jobs until SIGTERM or SIGINT; return the exit code: 1 when a server is away, 2 when a setting is wrong."""
    configure_logging(settings.log_format)
    trace_export.start("zimage-worker")
    started = time.monotonic()
    try:
        health = Health(settings)
    except ValueError as error:
        print(f"zimage worker: {error}", file=sys.stderr)
        return 2
    log.info("metrics at http://%s:%d/metrics", settings.metrics_host, health.port)
    gpu = GpuThread()
    images = ImageStore(settings, S3_ATTEMPTS)
    client = connect(settings)
    try:
        wait_for_redis(client, settings)
        wait_for_s3(images, settings)
        pipeline, model = gpu.call(lambda: load_pipeline(settings))
        limits = size_limits(model)
        gpu.call(lambda: _warm_up(pipeline, gpu, side=min(1024, limits.min_size * 4)))
    except UnreachableError as error:
        print(f"zimage worker: {error}", file=sys.stderr)
        return 1
    except (CheckpointError, ValueError) as error:
        print(f"zimage worker: {error}", file=sys.stderr)
        return 2  # a wrong setting: starting again does not help

    load_seconds = time.monotonic() - started
    precision = str(next(pipeline.transformer.parameters()).dtype).removeprefix("torch.")
    card = ModelCard(
        **limits.model_dump(),
        name=model,
        precision=precision,
        quantization=pipeline.quantization,
        load_seconds=load_seconds,
        abilities=ABILITIES,
    )
    _tell_metrics(pipeline, card)

    worker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    store = WorkerStore(client, settings)
    leases = Leases(store, worker, card, lambda: gpu.rate, settings.lease_seconds)
    departure = Departure(leases, store)
    runner = JobRunner(
        Artist(pipeline, gpu, ProgressReporter(store)),
        Delivery(images, model, settings.hold_seconds),
        gpu,
        store,
        leases,
        departure,
        worker,
        model,
        settings.hold_seconds,
    )
    reaper = Reaper(client, images, celery_app(settings), settings)
    drain_at_shutdown(departure, runner.stop_claiming, settings.drain_seconds)
    watch_device(departure, gpu, leases, settings.step_timeout)
    leases.start()
    reaper.start()
    health.warm(leases, runner.stop_claiming)
    log.info("worker %s ready after %.1f s: %s, %s on %s", worker, load_seconds, model, precision, pipeline.device)
    look_for_work(leases, runner)
    hear_the_bell(settings, runner, worker)
    runner.finish()  # Celery has waited for its own threads' jobs, not for the caretaker's
    reaper.stop()
    leases.stop()
    trace_export.flush()
    return 0


def _warm_up(pipeline: ZImagePipeline, gpu: GpuThread, side: int) -> None:
    """Draw twice, the second time for a first measurement of the rate."""
    for _ in range(2):
        start = time.monotonic()
        pipeline("warm-up", height=side, width=side, num_inference_steps=WARM_UP_STEPS)
    gpu.measured(side * side * WARM_UP_STEPS, time.monotonic() - start)


def _tell_metrics(pipeline: ZImagePipeline, card: ModelCard) -> None:
    metrics.model_load_seconds.set(card.load_seconds)
    metrics.worker_info.labels(card.name, str(pipeline.device), card.quantization or "none").set(1)
    if pipeline.device.type == "cuda":
        metrics.vram_total_bytes.set(torch.cuda.get_device_properties(pipeline.device).total_memory)
        metrics.vram_reserved_bytes.set_function(lambda: torch.cuda.memory_reserved(pipeline.device))
