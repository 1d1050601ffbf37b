"""The README, and what it points to, says what the code says."""

import re

from jobs.record import ERROR_CODES
from jobs.settings import markdown_table
from support.root import ROOT

README = ROOT / "README.md"
RELIABILITY = README.parent / "docs" / "reliability.md"


def test_the_settings_table_is_the_class() -> None:
    text = README.read_text()
    table = re.search(r"<!-- settings: .*? -->\n(.*?)\n<!-- /settings -->", text, re.DOTALL)
    assert table is not None
    assert table[1] == markdown_table()


def test_linked_files_are_there() -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target


def test_each_code_of_a_failed_job_is_explained() -> None:
    assert re.findall(r"^ +\| `(\w+)` \|", RELIABILITY.read_text(), re.M) == list(ERROR_CODES)
