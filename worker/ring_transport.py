"""Celery's way to Redis, on which nothing arrives but rings of the doorbell.

Whoever writes into Redis can put anything where rings are expected, and Celery ends over what it can't read, follows
what a message says of callbacks and delays, and keeps what it gave back. A ring has no content. So each message is
looked at here, before Celery sees it: what is none is dropped and counted, and of one that is Celery is given one of
our own making.
"""

import base64
import functools
import json
import logging
import uuid
from typing import Any

from kombu.transport.redis import Channel, QoS, Transport
from kombu.transport.virtual import Empty
from redis.exceptions import RedisError

from jobs.doorbell import QUEUE, TASK
from worker import metrics

log = logging.getLogger(__name__)

_NOTHING: tuple[list[object], dict[str, object], dict[str, object]] = ([], {}, {})  # arguments, and what comes after
_CONTENT = base64.b64encode(json.dumps(_NOTHING).encode()).decode()


def is_ring(message: Any) -> bool:
    """Tell whether a message, as JSON has it, is one that `jobs.doorbell.ring` may have sent; of any release."""
    try:
        headers, properties = message["headers"], message["properties"]
        said = message["content-type"], message["content-encoding"], properties["body_encoding"]
        if headers["task"] != TASK or headers.get("compression") or said != ("application/json", "utf-8", "base64"):
            return False
        arguments, options, _ = json.loads(base64.b64decode(message["body"], validate=True))
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
        return False
    return (arguments, options) == ([], {})


def fresh_ring() -> dict[str, Any]:
    """Return a ring as Celery's second protocol spells it, with an id that nobody has chosen."""
    ring_id = str(uuid.uuid4())
    return {
        "body": _CONTENT,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"lang": "py", "task": TASK, "id": ring_id, "root_id": ring_id, "ignore_result": True},
        "properties": {
            "correlation_id": ring_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": ring_id,
        },
    }


class _Unacknowledged(QoS):
    """Rings that were heard and not done with; Redis keeps them, too, for others to take up."""

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Give one back to the queue (kombu)."""
        try:
            super().restore_by_tag(tag, client, leftmost)
        except (RedisError, OSError):
            raise
        except Exception:  # noqa: BLE001 - what can't be read raises whatever it likes
            self._remove_from_indices(tag).execute()  # type: ignore[attr-defined]
            _drop()


class _RingChannel(Channel):
    """Reads messages; one that is no JSON never comes to the transport."""

    QoS = _Unacknowledged
    connection: "RingTransport"

    def _brpop_read(self, **options: Any) -> Any:
        heard = self.connection.heard
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]
        except (Empty, RedisError, OSError):
            raise
        except Exception:
            if self.connection.heard > heard:  # it was read: this is Celery's own
                raise
            _drop()
            return True


class RingTransport(Transport):
    """Hands rings on to Celery, and nothing else."""

    Channel = _RingChannel
    heard = 0  # messages that were JSON

    def _deliver(self, message: Any, queue: str | None) -> None:
        self.heard += 1
        if is_ring(message):
            super()._deliver(fresh_ring(), queue)
        else:
            _drop()


def _drop() -> None:
    metrics.doorbell_dropped_total.inc()
    _tell()


@functools.cache  # once: who can send one can send many
def _tell() -> None:
    log.warning("a message on the doorbell's queue is no ring and was dropped; further ones are counted only")
