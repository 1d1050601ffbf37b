"""The settings as commands need them: an invalid one ends the command with a line that names its variable."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.errors import ExitCode, UserError
from pipeline.formats import NAMES
from pipeline.memory_plan import parse_budget, parse_residency

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from jobs.settings import Settings

QUANTIZATIONS = ("none", *NAMES)


def load_settings(data: Path | None = None, **options: Any) -> "Settings":
    """Return the settings, and have this process trust the authorities that they name.

    Args:
        data: directory of a running `zimage up` whose servers are meant, whatever the environment says; None: those
            that it names.
        options: fields that options of the command set; None: as the environment has them.

    Raises:
        UserError: a `ZIMAGE_…` variable or option has a value that its field refuses, a variable of OpenSSL's names no
            certificates, the hub's no server, or nothing runs on the directory.
    """
    from pydantic import ValidationError

    from jobs.addresses import authorities, servers
    from jobs.settings import Settings

    if data is not None:
        from cli.stack import use_running

        use_running(data)
    try:
        settings = Settings(**{name: value for name, value in options.items() if value is not None})
        authorities.trust(settings.ca_bundle)
        servers.http_variable("HF_ENDPOINT")  # which the hub's library stumbles over as soon as it is imported
    except ValidationError as error:
        raise UserError(f"wrong setting: {'; '.join(map(_told, error.errors()))}", ExitCode.USAGE) from None
    except ValueError as error:
        raise UserError(f"wrong setting: {error}", ExitCode.USAGE) from None
    # The settings can't tell: they know nothing of the pipeline.
    if settings.quantization not in QUANTIZATIONS:
        known = " or ".join(map(repr, QUANTIZATIONS))
        told = f"ZIMAGE_QUANTIZATION={settings.quantization}: Input should be {known}"
        raise UserError(f"wrong setting: {told}", ExitCode.USAGE)
    for field, read in (("vram_budget", parse_budget), ("residency", parse_residency)):
        try:
            if value := getattr(settings, field):
                read(value)
        except ValueError as error:
            raise UserError(f"wrong setting: ZIMAGE_{field.upper()}: {error}", ExitCode.USAGE) from None
    return settings


def _told(item: "ErrorDetails") -> str:
    (field, *inside), (_, ours, told) = item["loc"], item["msg"].rpartition("Value error, ")
    setting = ": ".join([f"ZIMAGE_{str(field).upper()}", *map(str, inside)])
    # What our own readers refuse may be a secret in the wrong place; pydantic's are numbers and choices.
    return f"{setting}: {told}" if ours else f"{setting}={item['input']}: {told}"
