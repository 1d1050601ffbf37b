"""The webhook secrets of API keys: derived from the service's own, so that who knows one can sign for that key alone.

Nobody can work one out without the service's secret, and nobody with that alone: the key's digest, which only the keys
file has, goes in. So a key that is made anew under the same name has another secret, and a version makes the next one.
Standard Webhooks spells a secret `whsec_` and its bytes in base64.
"""

import base64
import hmac

from jobs.keys import ApiKey

PREFIX = "whsec_"
_PURPOSE = "zimage webhook secret"  # no event that the service's secret signs begins so


def secrets_of(key: ApiKey, service_secret: str) -> list[str]:
    """Return the secrets that sign a key's webhooks, the newest first: two while they are rotated.

    Args:
        key: whose.
        service_secret: `ZIMAGE_WEBHOOK_SECRET`.
    """
    return [_derived(key, service_secret, version) for version in key.secret_versions]


def _derived(key: ApiKey, service_secret: str, version: int) -> str:
    message = "\0".join((_PURPOSE, key.name, key.sha256, str(version)))
    secret = hmac.digest(base64.b64decode(service_secret.removeprefix(PREFIX)), message.encode(), "sha256")
    return PREFIX + base64.b64encode(secret).decode()
