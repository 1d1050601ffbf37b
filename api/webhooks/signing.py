"""Whose secrets sign a webhook, as Standard Webhooks has it: of several signatures one that fits is enough."""

from collections.abc import Iterator
from datetime import datetime

from standardwebhooks import Webhook

from jobs.keys import RESERVED, KeyRing
from jobs.webhook_secrets import secrets_of


class UnsignedError(Exception):
    """No secret signs for an owner; the message says why."""


class Signatures:
    """Signs webhooks for whose they are.

    Args:
        secret: the service's (`whsec_…`); signs what belongs to no key.
        keys: whose own secrets sign theirs; None: there are no keys.
        common: whether the service's secret signs theirs too (`ZIMAGE_WEBHOOK_COMMON_SIGNATURE`).
    """

    def __init__(self, secret: str, keys: KeyRing | None, *, common: bool) -> None:
        self._secret = secret
        self._keys = keys
        self._common = common

    def sign(self, owner: str, event: str, at: datetime, content: str) -> str:
        """Return the signatures of an event, separated by spaces.

        Args:
            owner: name of the key whose job ended.
            event: its id.
            at: when it is sent.
            content: the body.

        Raises:
            UnsignedError: the owner's key is gone, and its own secret with it.
        """
        signatures = [Webhook(secret).sign(event, at, content) for secret in self._secrets(owner)]
        if not signatures:
            raise UnsignedError(f"not signed: there is no key {owner}: `zimage keys create` makes it anew")
        return " ".join(signatures)

    def _secrets(self, owner: str) -> Iterator[str]:
        if self._keys and (key := self._keys.named(owner)):
            yield from secrets_of(key, self._secret)
        if self._common or self._keys is None or owner == RESERVED:
            yield self._secret
