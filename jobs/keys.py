"""API keys: the file that lists them, and telling whose key a request carries.

Of a key only its SHA-256 is stored. Keys have 256 random bits, so their digests need neither salt nor a slow hash.
"""

import fcntl
import hashlib
import hmac
import json
import logging
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from jobs.limits import NEW_KEY, Limits

log = logging.getLogger(__name__)

KEY_PREFIX = "zimage_"  # so that scanners for leaked secrets know one
RESERVED = "anonymous"  # owner of the jobs of a service without keys


class KeysFileError(ValueError):
    """The keys file can't be used; one line that names it and says why."""


class ApiKey(Limits):
    """One key, as the file has it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="owner of the jobs; shown in metrics")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    created_at: datetime
    secret_versions: tuple[PositiveInt, ...] = Field(
        (1,), min_length=1, max_length=2, description="of its webhook secret: those that sign, the newest first"
    )


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[ApiKey]


class KeysFile:
    """The file on disk, for those who change it: it is replaced as a whole, and keeps its owner, group and mode."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def _target(self) -> Path:
        """Where the file itself is: the path may be a link to it."""
        return self._path.resolve()

    def read(self) -> list[ApiKey]:
        """Return its keys.

        Raises:
            KeysFileError: it is missing or broken.
        """
        try:
            content = self._path.read_bytes()
            # As people's editors write it: in UTF-8 or UTF-16, with a byte order mark or without.
            keys = _Document.model_validate_json(content.decode(json.detect_encoding(content))).keys
        except OSError as error:
            advice = ": `zimage keys create` makes it" if isinstance(error, FileNotFoundError) else ""
            raise KeysFileError(f"{self._path}: {error.strerror}{advice}") from None
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            raise KeysFileError(f"{self._path}: {place}: {first['msg']}") from None
        except UnicodeDecodeError:
            raise KeysFileError(f"{self._path}: is neither UTF-8 nor UTF-16: save it as UTF-8") from None
        names = [key.name for key in keys]
        if len(set(names)) < len(names):
            raise KeysFileError(f"{self._path}: two keys have one name")
        return keys

    def create(self, name: str, limits: Limits = NEW_KEY) -> str:
        """Add a key and return it: it can't be read again later. Makes the file where there is none.

        Raises:
            KeysFileError: the name is taken, reserved or can't be one, or the file is broken, can't be written or
                can't keep its owner.
        """
        secret = KEY_PREFIX + secrets.token_urlsafe(32)
        try:
            key = ApiKey(name=name, sha256=digest(secret), created_at=datetime.now(UTC), **limits.model_dump())
        except ValidationError:
            raise KeysFileError(f"{name}: a name has up to 64 letters, digits, '.', '_' and '-'") from None
        if name == RESERVED:
            raise KeysFileError(f"{name}: the name is reserved for a service without keys: take another one")
        with self._locked():
            keys = self.read() if self._path.exists() else []
            if any(other.name == name for other in keys):
                raise KeysFileError(f"{self._path}: there is a key {name} already: revoke it, or take another name")
            self._write([*keys, key])
        return secret

    def revoke(self, name: str) -> None:
        """Remove a key; who uses it is refused from now on. Its jobs stay.

        Raises:
            KeysFileError: there is no such key, or the file is missing or broken, can't be written or can't keep its
                owner.
        """
        self._change(name, lambda _: None)

    def find(self, name: str) -> ApiKey:
        """Return the key of a name.

        Raises:
            KeysFileError: there is no such key, or the file is missing or broken.
        """
        return self._named(self.read(), name)

    def rotate_secret(self, name: str) -> None:
        """Give a key another webhook secret; the one before it signs too, until the rotation is finished.

        Raises:
            KeysFileError: a rotation is not finished yet, there is no such key, or the file is missing or broken, can't
                be written or can't keep its owner.
        """

        def rotated(key: ApiKey) -> ApiKey:
            newest, *before = key.secret_versions
            if before:
                raise KeysFileError(f"{name}: two webhook secrets sign already: --finish first, then --rotate")
            return key.model_copy(update={"secret_versions": (newest + 1, newest)})

        self._change(name, rotated)

    def finish_rotation(self, name: str) -> None:
        """Let a key's newest webhook secret alone sign.

        Raises:
            KeysFileError: there is no rotation to finish, there is no such key, or the file is missing or broken, can't
                be written or can't keep its owner.
        """

        def finished(key: ApiKey) -> ApiKey:
            newest, *before = key.secret_versions
            if not before:
                raise KeysFileError(f"{name}: one webhook secret signs, so there is nothing to finish: --rotate first")
            return key.model_copy(update={"secret_versions": (newest,)})

        self._change(name, finished)

    def _change(self, name: str, change: Callable[[ApiKey], ApiKey | None]) -> None:
        """Write what `change` makes of a key in its place; None: the key goes."""
        self.find(name)  # of a file that is not there, say so
        with self._locked():
            keys = self.read()
            key = self._named(keys, name)
            changed = change(key)
            self._write([kept for other in keys if (kept := changed if other is key else other)])

    def _named(self, keys: list[ApiKey], name: str) -> ApiKey:
        for key in keys:
            if key.name == name:
                return key
        raise KeysFileError(f"{self._path}: there is no key {name}")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep two who change the file at once apart; the file itself is replaced, so its folder holds the lock.

        What the system refuses meanwhile is raised as KeysFileError.
        """
        folder = self._target.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)
        except OSError as error:
            raise KeysFileError(f"{self._path}: no file can be written into {folder}: {error.strerror}") from None

    def _write(self, keys: list[ApiKey]) -> None:
        target = self._target
        descriptor, draft = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                # Without defaults, so that releases that know fewer limits read what has none of them.
                file.write(_Document(keys=keys).model_dump_json(indent=1, exclude_defaults=True) + "\n")
                if target.exists():  # the API may run as another user, who was given the right to read it
                    self._keep_rights(file.fileno(), target.stat())
            Path(draft).replace(target)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise

    def _keep_rights(self, descriptor: int, before: os.stat_result) -> None:
        try:
            os.fchown(descriptor, before.st_uid, before.st_gid)
        except OSError as error:
            detail = f"{error.strerror}: not changed, since it would lose its owner or group: try as its owner, or root"
            raise KeysFileError(f"{self._path}: {detail}") from None
        os.fchmod(descriptor, stat.S_IMODE(before.st_mode))


class KeyRing:
    """The keys that are valid now: the file is read again when it changes.

    Raises KeysFileError when made from a file that is missing or broken. Should it become so later, the keys read last
    stay valid until it can be read again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = KeysFile(path)
        self._seen = self._told = self._state()  # before it is read, so that no change is missed
        self._current = True
        self._keys = self._file.read()

    def entries(self) -> list[ApiKey]:
        """Return the entries of all keys."""
        self._refresh()
        return self._keys

    def find(self, secret: str) -> ApiKey | None:
        """Return the entry of a key, None if it is none of ours; takes as long for every key."""
        self._refresh()
        given, found = digest(secret), None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, given):
                found = key
        return found

    def has(self, key: ApiKey) -> bool:
        """Tell whether a key is still valid, under the same name; its limits may be others by now."""
        self._refresh()
        return any((other.name, other.sha256) == (key.name, key.sha256) for other in self._keys)

    def named(self, name: str) -> ApiKey | None:
        """Return the entry of a name, None if there is none."""
        self._refresh()
        return next((key for key in self._keys if key.name == name), None)

    def is_current(self) -> bool:
        """Tell whether the file can be read, so that the keys are those in it; it is looked at now."""
        self._refresh()
        return self._current

    def _refresh(self) -> None:
        state = self._state()
        if state != self._seen:
            try:
                self._keys = self._file.read()
            except KeysFileError as error:
                self._current = False
                if state != self._told:  # once, though it is tried again at each request
                    log.error("the keys read last stay valid, revoked ones with them: %s", error)
                    self._told = state
                return
        if not self._current:
            log.warning("%s is read again: the keys in it are valid, and no others", self._path)
        self._current = True
        self._seen = self._told = state

    def _state(self) -> tuple[int, ...] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def owner_of(key: ApiKey | None) -> str:
    """Return whose a key's jobs are; None: those of whoever has none."""
    return key.name if key else RESERVED


def digest(secret: str) -> str:
    """SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()
