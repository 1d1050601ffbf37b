"""The settings as commands need them: an invalid one ends the command with a line that names its variable."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.errors import ExitCode, UserError
from pipeline.formats import NAMES

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
            certificates, or nothing runs on the directory.
    """
    from pydantic import ValidationError

    from jobs.addresses import authorities
    from jobs.settings import Settings

    if data is not None:
        from cli.stack import use_running

        use_running(data)
    try:
        settings = Settings(**{name: value for name, value in options.items() if value is not None})
        authorities.trust(settings.ca_bundle)
    except ValidationError as error:
        wrong = "; ".join(
            f"ZIMAGE_{str(item['loc'][0]).upper()}={_shown(item)}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        )
        raise UserError(f"wrong setting: {wrong}", ExitCode.USAGE) from None
    except ValueError as error:
        raise UserError(f"wrong setting: {error}", ExitCode.USAGE) from None
    # The settings can't tell: they are below the pipeline, which API and workers need not both have.
    if settings.quantization not in QUANTIZATIONS:
        known = " or ".join(map(repr, QUANTIZATIONS))
        told = f"ZIMAGE_QUANTIZATION={settings.quantization}: Input should be {known}"
        raise UserError(f"wrong setting: {told}", ExitCode.USAGE)
    return settings


def _shown(item: "ErrorDetails") -> str:
    from jobs.settings import CONFIDENTIAL

    value = str(item["input"])
    return "…" if item["loc"][0] in CONFIDENTIAL or "@" in value else value
