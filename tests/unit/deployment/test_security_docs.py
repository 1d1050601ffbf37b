"""docs/security.md: the limits that it tells are those in force."""

import re

import pytest

from jobs.limits import NEW_KEY, Limits
from jobs.settings import Settings
from support.kubernetes_objects import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()
ROWS = [row.split(" | ") for row in PAGE.partition("## Limits")[2].splitlines() if row.startswith("| ")]
SET = [(limit, name) for _, limit, set_by in ROWS for name in re.findall(r"`ZIMAGE_(\w+)`", set_by)]


@pytest.mark.parametrize(("limit", "name"), SET, ids=[name for _, name in SET])
def test_defaults_are_those_of_the_settings(limit: str, name: str) -> None:
    default = Settings.model_fields[name.lower()].default
    told = "half of them" if default is None else f"{default:,g}" if isinstance(default, float) else f"{default:,}"
    assert told in limit


def test_a_new_key_has_the_limits_told() -> None:
    assert Limits(rate=None, work=None, in_flight=None, share=0.5, weight=1) == NEW_KEY
