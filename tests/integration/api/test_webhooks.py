"""Webhooks: what a receiver gets, whatever fails on the way, and what an operator can do about the rest."""

import asyncio
import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import WebhookVerificationError

from api.background import end
from api.webhooks import deliverer, lookups
from api.webhooks.addresses import Addresses
from api.webhooks.deliverer import Deliverer
from api.webhooks.signing import Signatures
from cli.stack import Stack
from jobs.keys import KeyRing, KeysFile
from jobs.record import JobError
from jobs.settings import Settings
from jobs.store.redis_client import connect, connect_async
from jobs.store.webhooks import Outbox, Undelivered
from jobs.webhook_secrets import secrets_of
from support.operating import LOST, OWNER, Service, service
from support.receiving import SECRET, Receiver, free_port, pointing_to, receiver
from support.root import ROOT
from support.waiting import wait_until

LONGER = {"width": 256, "height": 256, "num_inference_steps": 50}
NOBODY = "redis://:hidden@127.0.0.1:1/0"


@pytest.fixture
def own(servers: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(deliverer, "POLL_SECONDS", 0.05)
    for name, value in servers.environ().items():
        monkeypatch.setenv(name, value)  # the key pair that signs the images' URLs
    with service(servers) as running:
        yield running


def deliver(
    own: Service,
    until: Callable[[], bool],
    *,
    deliverers: int = 1,
    delays: Sequence[float] = (0.01,) * 100,
    addresses: Addresses | None = None,
    signatures: Signatures | None = None,
) -> None:
    """Run deliverers, as API processes do, until something is so."""
    signing = signatures or Signatures(SECRET, None, common=True)

    async def running() -> None:
        async with connect_async(own.settings) as client:
            outbox = Outbox(client, own.settings)
            tasks = [
                asyncio.create_task(
                    Deliverer(
                        outbox, own.images, signing, addresses or Addresses(allow_private=True), delays=delays
                    ).run()
                )
                for _ in range(deliverers)
            ]
            async with asyncio.timeout(30):
                while not until():
                    await asyncio.sleep(0.01)
            await end(tasks)

    asyncio.run(running())


def undelivered(own: Service) -> list[tuple[str, str, int, str | None]]:
    events = Undelivered(own.redis, own.settings).events()
    return [(event.event, event.state, event.tries, event.last_error) for event in events]


def ended(own: Service, url: str, owner: str = OWNER) -> str:
    """Return a job that has succeeded, and whose webhook is to be told."""
    job_id = own.submit(owner, webhook_url=url)
    assert own.commit(own.claim()) == "succeeded"
    return job_id


def test_a_receiver_is_told_of_every_way_in_which_a_job_ends(own: Service) -> None:
    with receiver() as listening:
        own.submit()
        assert own.commit(own.claim()) == "succeeded"  # it has no webhook
        jobs = {ended(own, listening.url): "job.succeeded"}
        jobs[own.submit(webhook_url=listening.url)] = "job.failed"
        assert own.worker.fail(own.claim(), JobError(code="internal_error", message="x", retryable=True)) == "failed"
        jobs[own.submit(webhook_url=listening.url)] = "job.failed"
        assert [own.worker.lose(own.claim(), LOST) for _ in range(3)][-1] == "failed"
        jobs[canceled := own.submit(webhook_url=listening.url)] = "job.canceled"
        own.cancel(canceled)
        jobs[expired := own.submit(webhook_url=listening.url)] = "job.expired"
        own.redis.zadd(f"{own.settings.redis_prefix}deadlines", {expired: 1})
        own.worker.expire()
        deliver(own, lambda: undelivered(own) == [])
    events = verified(listening)
    assert {event["data"]["id"]: event["type"] for event in events} == jobs
    assert len(events) == len(jobs)
    for event in events:
        assert event["type"] == f"job.{event['data']['status']}"
        assert event["timestamp"] == event["data"]["finished_at"]
    assert {event["data"]["error"]["code"] for event in events if event["type"] == "job.failed"} == {
        "internal_error",
        "worker_lost",
    }


def test_a_retried_dead_letter_is_told_twice_each_time_as_it_ended(own: Service) -> None:
    with receiver() as listening:
        job_id = own.dead_letter(webhook_url=listening.url)
        assert own.zimage("dead", "retry", job_id).returncode == 0
        assert own.commit(own.claim()) == "succeeded"
        deliver(own, lambda: undelivered(own) == [])
    told = {received.id: received.verified()["type"] for received in listening.requests}
    assert sorted(told.values()) == ["job.failed", "job.succeeded"]


def test_an_event_outlives_its_job(own: Service) -> None:
    with receiver() as listening:
        job_id = ended(own, listening.url)
        own.worker.delete(job_id)
        deliver(own, lambda: undelivered(own) == [])
    assert listening.requests[0].verified()["data"]["id"] == job_id


def test_what_is_not_taken_is_sent_again_under_the_same_id(own: Service) -> None:
    with ExitStack() as receivers:
        elsewhere = receivers.enter_context(receiver())
        listening = {
            status: receivers.enter_context(receiver([status] * 2, location=elsewhere.url))
            for status in (301, 302, 307, 308, 400, 404, 429, 500, 503)
        }
        for refusing in listening.values():
            ended(own, refusing.url)
        deliver(own, lambda: undelivered(own) == [])
        assert {status: len(refusing.requests) for status, refusing in listening.items()} == dict.fromkeys(listening, 3)
        for refusing in listening.values():
            assert len({received.id for received in refusing.requests}) == 1
        assert elsewhere.requests == []  # redirects are not followed


def test_a_name_that_points_into_a_private_network_later_gets_nothing(own: Service) -> None:
    addresses = Addresses(allow_private=False, lookup=pointing_to("127.0.0.1"))
    with receiver() as listening:
        ended(own, listening.url.replace("127.0.0.1", "rebinding.example"))
        deliver(own, lambda: undelivered(own)[0][2] >= 3, addresses=addresses)
        assert listening.requests == []
    ((_, state, _, error),) = undelivered(own)
    assert state == "pending"
    assert "public" in str(error)


def test_a_key_s_webhooks_are_signed_by_its_own_secret(own: Service, tmp_path: Path) -> None:
    file = KeysFile(tmp_path / "keys.json")
    for name in ("alice", "bob"):
        file.create(name)
    secrets = {name: secrets_of(file.find(name), SECRET)[0] for name in ("alice", "bob")}
    signatures = Signatures(SECRET, KeyRing(tmp_path / "keys.json"), common=False)
    with receiver() as listening:
        jobs = {ended(own, listening.url, name): name for name in ("alice", "bob")}
        gone = ended(own, listening.url, "gone")
        deliver(own, lambda: [bool(error) for *_, error in undelivered(own)] == [True], signatures=signatures)
        assert len(listening.requests) == 2
        for received in listening.requests:
            owner = jobs[json.loads(received.body)["data"]["id"]]
            assert received.verified(secrets[owner])["type"] == "job.succeeded"
            for other in {SECRET, *secrets.values()} - {secrets[owner]}:
                with pytest.raises(WebhookVerificationError):
                    received.verified(other)
        # Of a key that is gone nothing can be signed. It may come back, for one that is made anew say.
        ((_, state, _, error),) = undelivered(own)
        assert (state, error) == ("pending", "not signed: there is no key gone: `zimage keys create` makes it anew")
        file.create("gone")
        deliver(own, lambda: undelivered(own) == [], signatures=signatures)
        assert listening.requests[-1].verified(secrets_of(file.find("gone"), SECRET)[0])["data"]["id"] == gone


def test_a_receiver_that_is_gone_is_left_alone(own: Service) -> None:
    with receiver([410]) as listening:
        ended(own, listening.url)
        deliver(own, lambda: [event[1] for event in undelivered(own)] == ["dead"])
    assert len(listening.requests) == 1


def test_many_deliverers_send_each_event_once(own: Service) -> None:
    with receiver() as listening:
        jobs = {ended(own, listening.url) for _ in range(20)}
        deliver(own, lambda: undelivered(own) == [], deliverers=3)
    assert sorted(received.verified()["data"]["id"] for received in listening.requests) == sorted(jobs)


def test_receivers_that_hang_hold_up_no_other_key_s(own: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliverer, "MOST_AT_ONCE", 8)
    with receiver() as hanging, receiver() as quick, ThreadPoolExecutor(1) as process:
        hanging.proceed.clear()
        for owner in ("mallory", "oscar"):
            for _ in range(30):
                ended(own, hanging.url, owner)
        delivering = process.submit(deliver, own, lambda: len(quick.requests) == 10 and len(undelivered(own)) == 60)
        wait_until(lambda: len(hanging.requests) >= 6)
        jobs = {ended(own, quick.url, owner) for owner in ("alice", "bob") for _ in range(5)}
        delivering.result()
        assert {received.verified()["data"]["id"] for received in quick.requests} == jobs
        # None of those that hang was given back before: nobody waited for that.
        assert {error for _, _, _, error in undelivered(own)} == {None}


def test_names_that_hang_cost_no_other_event_a_try(own: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "SECONDS", 0.5)
    going_on = threading.Event()

    def lookup(host: str, _port: int) -> Sequence[str]:
        if host.endswith("dead.example"):
            going_on.wait(60)
        return ["127.0.0.1"]

    addresses = Addresses(allow_private=True, lookup=lookup)
    with receiver() as listening, ThreadPoolExecutor(1) as process:
        for number in range(64):
            ended(own, f"http://{number}.dead.example/", "bob")
        jobs = [ended(own, listening.url.replace("127.0.0.1", "hooks.example"), owner) for owner in ("bob", "alice")]
        delivering = process.submit(
            deliver, own, lambda: len(listening.requests) == 2, delays=[3600], addresses=addresses
        )
        wait_until(lambda: len([error for *_, error in undelivered(own) if error]) == lookups.AT_ONCE)
        wait_until(lambda: [received.verified()["data"]["id"] for received in listening.requests] == jobs[1:])
        # Those that were looked up have failed a try; those behind them, the healthy one too, only wait.
        assert Counter(tries for _, _, tries, _ in undelivered(own)) == {1: lookups.AT_ONCE, 0: 49}
        going_on.set()
        delivering.result()
    assert {received.verified()["data"]["id"] for received in listening.requests} == set(jobs)


def test_a_key_s_many_events_are_all_delivered(own: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliverer, "MOST_AT_ONCE", 4)
    with receiver() as listening:
        jobs = {ended(own, listening.url) for _ in range(40)}
        deliver(own, lambda: undelivered(own) == [])
    assert sorted(received.verified()["data"]["id"] for received in listening.requests) == sorted(jobs)


def test_an_event_whose_deliverer_died_goes_to_another_one_after_the_lease(own: Service) -> None:
    with receiver() as listening:
        listening.proceed.clear()
        ended(own, listening.url)
        deliver(own, lambda: len(listening.requests) == 1)  # and ends before the answer
        listening.proceed.set()
        ((event, *_),) = undelivered(own)
        assert own.zimage("webhooks", "redeliver", event).stderr.endswith("is being delivered right now\n")
        end_leases(own)
        deliver(own, lambda: undelivered(own) == [])
    assert [received.id for received in listening.requests] == [event] * 2


def end_leases(own: Service) -> None:
    key = f"{own.settings.redis_prefix}webhooks"
    for event in own.redis.zrange(key, 0, -1):
        own.redis.zadd(key, {event: 1})


def test_a_deliverer_that_wakes_up_after_its_lease_changes_nothing(own: Service) -> None:
    ended(own, f"http://127.0.0.1:{free_port()}/")

    async def claims() -> None:
        async with connect_async(own.settings) as client:
            outbox = Outbox(client, own.settings)
            late = await outbox.claim()
            assert late is not None
            assert await outbox.claim() is None
            end_leases(own)
            current = await outbox.claim()
            assert current is not None
            await outbox.delivered(late)
            await outbox.give_up(late, "late")
            assert undelivered(own) == [(late.event, "pending", 2, None)]
            await outbox.delivered(current)
            assert undelivered(own) == []

    asyncio.run(claims())


def test_an_operator_lists_what_was_given_up_and_has_it_sent_again(own: Service) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/hook"
    job_id = ended(own, url)
    deliver(own, lambda: [event[1] for event in undelivered(own)] == ["dead"], delays=[0.01, 0.01])
    (listed,) = own.zimage_json("webhooks", "list")
    assert (listed["state"], listed["tries"], listed["job"], listed["status"]) == ("dead", 3, job_id, "succeeded")
    assert listed["webhook_url"] == url
    assert listed["last_error"] == "All connection attempts failed"
    line = own.zimage("webhooks", "list").stdout.rstrip("\n").split("\t")
    assert line == [listed["event"], "dead", listed["at"], "3", url, listed["last_error"]]

    with receiver(port=port) as listening:
        assert own.zimage("webhooks", "redeliver", listed["event"]).stdout == f"{listed['event']}\n"
        assert [event[1] for event in undelivered(own)] == ["pending"]
        deliver(own, lambda: undelivered(own) == [])
    assert [received.id for received in listening.requests] == [listed["event"]]


def test_events_that_wait_can_be_sent_at_once(own: Service) -> None:
    with receiver([500, 500]) as listening:
        jobs = [ended(own, listening.url) for _ in range(2)]
        deliver(own, lambda: {event[3] for event in undelivered(own)} == {"answered 500"}, delays=[3600])
        assert len(own.zimage("webhooks", "redeliver", "--all").stdout.splitlines()) == len(jobs)
        deliver(own, lambda: undelivered(own) == [])
    assert len(listening.requests) == 4


def test_what_is_not_in_the_outbox_is_named(own: Service) -> None:
    done = own.zimage("webhooks", "redeliver", "evt_nothing")
    assert (done.returncode, done.stdout) == (1, "")
    assert "evt_nothing: is not in the outbox" in done.stderr
    assert own.zimage("webhooks", "redeliver").returncode == 2
    assert own.zimage("webhooks", "list", ZIMAGE_REDIS_URL=NOBODY).stderr.startswith("zimage: Redis at 127.0.0.1:1 ")


def test_events_given_up_are_kept_as_long_as_jobs(own: Service) -> None:
    own.settings.job_ttl = 1
    ended(own, f"http://127.0.0.1:{free_port()}/")
    deliver(own, lambda: [event[1] for event in undelivered(own)] == ["dead"], delays=[])
    time.sleep(1.1)
    own.worker.retire()
    assert undelivered(own) == []


def test_a_wrong_secret_is_refused_and_not_shown(own: Service) -> None:
    done = own.zimage("webhooks", "list", ZIMAGE_WEBHOOK_SECRET="whsec_dG9vIHNob3J0")
    assert done.returncode == 2
    assert "ZIMAGE_WEBHOOK_SECRET" in done.stderr
    assert "dG9vIHNob3J0" not in done.stderr


def test_nothing_is_lost_when_receiver_api_and_worker_die(tmp_path: Path) -> None:
    """The receiver is down for three tries; API and worker are killed in between."""
    env = {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests/support"), str(ROOT)]),
        "ZIMAGE_WEBHOOK_SECRET": SECRET,
        "ZIMAGE_WEBHOOK_ALLOW_PRIVATE": "true",
        "ZIMAGE_LEASE_SECONDS": "2",
    }
    port = free_port()
    job = {"prompt": "a cat", "width": 128, "height": 128, "webhook_url": f"http://127.0.0.1:{port}/hook"}
    with Stack(tmp_path, workers=1, model="tiny", env=env, module="quick_webhooks") as stack:
        settings = Settings(redis_url=stack.redis_url)
        with connect(settings) as client:

            def events() -> dict[str, int]:
                return {event.event: event.tries for event in Undelivered(client, settings).events()}

            first = httpx.post(f"{stack.api_url}/v1/jobs", json=job).raise_for_status().json()
            wait_until(lambda: any(tries >= 1 for tries in events().values()))
            (event,) = events()
            os.kill(stack.pids()["api"], signal.SIGKILL)
            wait_until(lambda: answers(stack))
            tries = events()[event]
            second = httpx.post(f"{stack.api_url}/v1/jobs", json=job | LONGER).json()
            wait_until(lambda: client.zcard("zimage:running") == 1)
            os.kill(stack.pids()["workers"][0], signal.SIGKILL)
            wait_until(lambda: events()[event] >= max(3, tries + 1))
            assert re.search(r"^zimage_webhooks_pending [12]\.0$", metrics(stack), re.MULTILINE)
            with receiver([500], port=port) as listening:
                wait_until(lambda: not events() and len({told["data"]["id"] for told in verified(listening)}) == 2)
            assert "zimage_webhooks_pending 0.0" in metrics(stack)
            assert 'zimage_webhook_deliveries_total{outcome="delivered"} 2.0' in metrics(stack)
            for job_id, attempt in [(first["id"], 1), (second["id"], 2)]:
                told = [event["data"] for event in verified(listening) if event["data"]["id"] == job_id][-1]
                shown = httpx.get(f"{stack.api_url}/v1/jobs/{job_id}").json()
                assert httpx.get(told["images"][0]["url"]).headers["content-type"] == "image/png"
                assert (told["status"], told["attempt"]) == ("succeeded", attempt)
                for view in (told, shown):
                    view["images"][0].pop("url")
                assert told == {name: value for name, value in shown.items() if name != "urls"}
    ids = {(request.verified()["data"]["id"], request.id) for request in listening.requests}
    assert len(listening.requests) == 3
    assert len(ids) == 2
    assert (first["id"], event) in ids


def verified(listening: Receiver) -> list[Any]:
    return [request.verified() for request in listening.requests]


def metrics(stack: Stack) -> str:
    return httpx.get(f"{stack.api_url}/metrics").text


def answers(stack: Stack) -> bool:
    try:
        return httpx.get(f"{stack.api_url}/livez").is_success
    except httpx.TransportError:
        return False
