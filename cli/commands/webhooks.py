"""`zimage webhooks list, redeliver`: events that were not delivered. Talks to Redis itself."""

import sys
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.checked_settings import load_settings
from cli.chosen import act_on_each, chosen
from cli.results import print_json
from cli.servers import redis_client
from cli.table import local_time, print_table, printable, shortened

if TYPE_CHECKING:
    from jobs.store.webhooks import UndeliveredEvent

webhooks = typer.Typer(help="Events of ended jobs that wait to be delivered, or were given up.", no_args_is_help=True)

EventIds = Annotated[list[str] | None, typer.Argument(metavar="EVENT…", help="Their ids.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="All events listed.")]


@webhooks.command("list")
def list_webhooks(as_json: options.Json = False, data: options.Running = None) -> None:
    """List undelivered events: those given up, then those that wait, with the time of the next try."""
    from jobs.store.webhooks import Undelivered

    settings = load_settings(data)
    with redis_client(settings) as client:
        events = Undelivered(client, settings).events()
    if as_json:
        print_json([_as_json(event) for event in events])
    elif sys.stdout.isatty():
        columns = ("event", "state", "next try or end", "tries", "url", "last error")
        print_table(columns, [_cells(event, local_time, shortened) for event in events])
    else:
        for event in events:
            print("\t".join(_cells(event, datetime.isoformat, str)))


def _as_json(event: "UndeliveredEvent") -> dict[str, object]:
    return {
        "event": event.event,
        "state": event.state,
        "at": event.at.isoformat(),
        "tries": event.tries,
        "last_error": event.last_error,
        "job": event.job.id,
        "status": event.job.status,
        "webhook_url": event.job.input.webhook_url,
    }


def _cells(
    event: "UndeliveredEvent", written: Callable[[datetime], str], fitted: Callable[[str], str]
) -> tuple[str, ...]:
    url = fitted(printable(event.job.input.webhook_url or ""))
    return event.event, event.state, written(event.at), str(event.tries), url, printable(event.last_error or "")


@webhooks.command()
def redeliver(event_ids: EventIds = None, every: All = False, data: options.Running = None) -> None:
    """Let events be tried now, and again for a day; prints the id of each one."""
    from jobs.store.webhooks import Undelivered

    settings = load_settings(data)
    refusals = {
        "unknown": "is not in the outbox: it was delivered, or given up long ago",
        "busy": "is being delivered right now",
    }
    with redis_client(settings) as client:
        undelivered = Undelivered(client, settings)
        ids = chosen("events", event_ids, every, lambda: [event.event for event in undelivered.events()])
        act_on_each(ids, lambda event: refusals.get(undelivered.redeliver(event)))
