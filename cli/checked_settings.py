"""The settings as commands need them: an invalid one ends the command with a line that names its variable."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from cli.errors import ExitCode, UserError
from pipeline.formats import NAMES

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from jobs.settings import Settings

QUANTIZATIONS = ("none", *NAMES)


def load_settings(data: Path | None = None) -> "Settings":
    """Return the settings.

    Args:
        data: directory of a running `zimage up` whose servers are meant, whatever the environment says; None: those
            that it names.

    Raises:
        UserError: a `ZIMAGE_…` variable has a value that its field refuses, or nothing runs on the directory.
    """
    from pydantic import ValidationError

    from jobs.settings import get_settings

    if data is not None:
        from cli.stack import use_running

        use_running(data)
    try:
        settings = get_settings()
    except ValidationError as error:
        wrong = "; ".join(
            f"ZIMAGE_{'_'.join(map(str, item['loc'])).upper()}={_shown(item)}: {item['msg']}" for item in error.errors()
        )
        raise UserError(f"wrong setting: {wrong}", ExitCode.USAGE) from None
    # The settings can't tell: they are below the pipeline, which API and workers need not both have.
    if settings.quantization not in QUANTIZATIONS:
        known = " or ".join(map(repr, QUANTIZATIONS))
        told = f"ZIMAGE_QUANTIZATION={settings.quantization}: Input should be {known}"
        raise UserError(f"wrong setting: {told}", ExitCode.USAGE)
    return settings


def _shown(item: "ErrorDetails") -> str:
    if item["loc"] == ("webhook_secret",):
        return "…"
    return re.sub(r"://.*@", "://…@", str(item["input"]))
