"""The doorbell: a Celery message without arguments that says "there is work".

The record in Redis is the truth. A worker that hears the bell claims the best pending job, or returns at once when
there is none, so lost, doubled or reordered messages do no harm; the reaper rings again for jobs whose message is gone.
"""

from celery import Celery

from jobs.settings import Settings
from jobs.store.redis_client import SOCKET_OPTIONS

TASK = "zimage.generate"
QUEUE = "doorbell"


def celery_app(settings: Settings) -> Celery:
    """Return the Celery app that rings and hears."""
    app = Celery("zimage", broker=settings.redis_url.broker_url(), set_as_current=False)
    app.conf.update(
        broker_use_ssl=settings.redis_url.tls or False,
        task_default_queue=QUEUE,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_publish_retry=False,  # the reaper rings again
        task_acks_late=True,
        task_serializer="json",
        accept_content=["json"],
        event_serializer="json",
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,  # the lease decides, not the connection
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={**SOCKET_OPTIONS, "global_keyprefix": f"{settings.redis_prefix}celery:"},
    )
    return app


def ring(app: Celery) -> None:
    """Publish one message. Blocks: never call it from an event loop.

    Raises:
        kombu.exceptions.OperationalError: Redis can't be reached.
    """
    app.send_task(TASK, queue=QUEUE, ignore_result=True)


def messages_key(settings: Settings) -> str:
    """Return the Redis list in which messages wait to be heard."""
    return f"{settings.redis_prefix}celery:{QUEUE}"
