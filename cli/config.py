"""The settings as commands need them: an invalid one ends the command with a line that names its variable."""

import re
from typing import TYPE_CHECKING

from cli.errors import ExitCode, UserError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from jobs.settings import Settings


def load_settings() -> "Settings":
    """Return the settings.

    Raises:
        UserError: a `ZIMAGE_…` variable has a value that its field refuses.
    """
    from pydantic import ValidationError

    from jobs.settings import get_settings

    try:
        return get_settings()
    except ValidationError as error:
        wrong = "; ".join(
            f"ZIMAGE_{'_'.join(map(str, item['loc'])).upper()}={_shown(item)}: {item['msg']}" for item in error.errors()
        )
        raise UserError(f"wrong setting: {wrong}", ExitCode.USAGE) from None


def _shown(item: "ErrorDetails") -> str:
    if item["loc"] == ("webhook_secret",):
        return "…"
    return re.sub(r"://.*@", "://…@", str(item["input"]))
