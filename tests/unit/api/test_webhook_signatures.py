"""Webhook secrets: each key has its own, as receivers and operators meet them."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import Result
from standardwebhooks import Webhook, WebhookVerificationError
from typer.testing import CliRunner

from api.webhooks.signing import Signatures, UnsignedError
from cli.main import app
from jobs.keys import RESERVED, KeyRing, KeysFile
from jobs.webhook_secrets import secrets_of
from support.receiving import SECRET

EVENT = '{"type": "job.succeeded"}'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    for name in ("alice", "bob"):
        KeysFile(path).create(name)
    return path


def zimage_keys(path: Path, *words: str, secret: str | None = SECRET) -> Result:
    return CliRunner().invoke(app, ["keys", *words, "--file", str(path)], env={"ZIMAGE_WEBHOOK_SECRET": secret})


def secret_of(path: Path, *words: str) -> str:
    told = zimage_keys(path, "secret", *words)
    assert told.exit_code == 0, told.output
    assert told.stdout.startswith("whsec_")
    assert told.stdout.count("\n") == 1
    return str(told.stdout.strip())


def verified_by(signatures: Signatures, owner: str, *secrets: str) -> list[bool]:
    """Tell with which of these secrets an event of an owner's is verified."""
    now = datetime.now(UTC)
    signed = signatures.sign(owner, "evt_1", now, EVENT)
    headers = {"webhook-id": "evt_1", "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signed}

    def verifies(secret: str) -> bool:
        try:
            return bool(Webhook(secret).verify(EVENT, headers))
        except WebhookVerificationError:
            return False

    return [verifies(secret) for secret in secrets]


def signing(path: Path, *, common: bool = False) -> Signatures:
    return Signatures(SECRET, KeyRing(path), common=common)


def test_each_key_has_a_secret_of_its_own(path: Path) -> None:
    alice, bob = secret_of(path, "alice"), secret_of(path, "bob")
    assert verified_by(signing(path), "alice", alice, bob, SECRET) == [True, False, False]
    assert secret_of(path, "alice") == alice
    assert secret_of(path, "alice", "--rotate") != alice  # which the next test is about


def test_two_secrets_sign_until_a_rotation_is_finished(path: Path) -> None:
    signatures, old = signing(path), secret_of(path, "alice")  # the API reads the file again by itself
    new = secret_of(path, "alice", "--rotate")
    assert secret_of(path, "alice") == new
    assert verified_by(signatures, "alice", old, new) == [True, True]
    assert "alice" in (listed := zimage_keys(path, "list").stdout.splitlines())[0]
    assert ["being rotated" in line for line in listed] == [True, False]
    assert secret_of(path, "alice", "--finish") == new
    assert verified_by(signatures, "alice", old, new) == [False, True]
    assert secret_of(path, "alice", "--rotate") not in (old, new)


def test_the_common_signature_goes_beside_until_it_is_switched_off(path: Path) -> None:
    alice, bob = secret_of(path, "alice"), secret_of(path, "bob")
    assert verified_by(signing(path, common=True), "alice", alice, bob, SECRET) == [True, False, True]


@pytest.mark.parametrize("common", [True, False])
def test_what_belongs_to_no_key_is_signed_by_the_service_s_secret(path: Path, common: bool) -> None:
    assert verified_by(Signatures(SECRET, None, common=common), RESERVED, SECRET) == [True]
    assert verified_by(signing(path, common=common), RESERVED, SECRET) == [True]  # from before there were keys


def test_a_key_that_is_made_anew_under_its_name_has_another_secret(path: Path) -> None:
    signatures, old = signing(path), secret_of(path, "alice")
    KeysFile(path).revoke("alice")
    with pytest.raises(UnsignedError, match="there is no key alice"):
        verified_by(signatures, "alice", old)
    assert verified_by(signing(path, common=True), "alice", old, SECRET) == [False, True]
    KeysFile(path).create("alice")
    assert verified_by(signatures, "alice", old, secret_of(path, "alice")) == [False, True]


def test_another_secret_of_the_service_makes_others_of_the_keys(path: Path) -> None:
    key = KeysFile(path).find("alice")
    assert secrets_of(key, SECRET) != secrets_of(key, SECRET.replace("Mf", "Mg"))


def test_secrets_stay_the_same_from_release_to_release(path: Path) -> None:
    key = KeysFile(path).find("alice").model_copy(update={"sha256": 64 * "0", "secret_versions": (2, 1)})
    assert secrets_of(key, SECRET) == [
        "whsec_mBk57CLT9rv8c6AgYZD9qjlLBZRXUYoPfCb3kiVrW6E=",
        "whsec_8eB9Du7ZuP+zonOctgnLTtxkqWLT75Xzo4XHhQdDiWQ=",
    ]


def test_a_key_stays_valid_while_its_secret_is_rotated(path: Path) -> None:
    ring = KeyRing(path)
    key = KeysFile(path).find("alice")
    KeysFile(path).rotate_secret("alice")
    assert ring.has(key)
    KeysFile(path).revoke("alice")
    KeysFile(path).create("alice")
    assert not ring.has(key)


def test_a_file_is_written_as_earlier_releases_read_it_until_a_secret_is_rotated(path: Path) -> None:
    secret_of(path, "alice")
    assert "secret" not in path.read_text()


@pytest.mark.parametrize(
    ("words", "told", "code"),
    [
        (["nobody"], "there is no key nobody", 1),
        (["nobody", "--rotate"], "there is no key nobody", 1),
        (["alice", "--finish"], "nothing to finish", 1),
        (["bob", "--rotate"], "two webhook secrets sign already", 1),
        (["alice", "--rotate", "--finish"], "not both at once", 2),
    ],
)
def test_what_can_not_be_done_is_told_in_a_line(path: Path, words: list[str], told: str, code: int) -> None:
    KeysFile(path).rotate_secret("bob")
    before = path.read_bytes()
    result = zimage_keys(path, "secret", *words)
    assert (result.exit_code, result.stdout) == (code, "")
    assert told in result.stderr
    assert result.stderr.count("\n") == 1
    assert path.read_bytes() == before


def test_without_the_service_s_secret_there_are_none(path: Path) -> None:
    before = path.read_bytes()
    for words in (["alice"], ["alice", "--rotate"]):
        result = zimage_keys(path, "secret", *words, secret=None)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "ZIMAGE_WEBHOOK_SECRET is not set" in result.stderr
    assert path.read_bytes() == before
