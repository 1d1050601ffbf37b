"""The Lua scripts' headers: each tells what it does, its arguments, its answer and the keys that it touches."""

import re
from importlib.resources import files

import pytest

SCRIPTS = files("jobs.store.scripts")
NAMES = sorted(
    {file.name.removesuffix(".lua") for file in SCRIPTS.iterdir() if file.name.endswith(".lua")} - {"prelude"}
)
PRELUDE = (SCRIPTS / "prelude.lua").read_text()
KEYSPACE = {
    name.strip()
    for names in re.findall(r"^-- (\S.*?) +(?:hash|zset|string|channel) ", PRELUDE, re.M)
    for name in names.split(",")
}


def touched(code: str) -> set[str]:
    """Return the first words of the names of the keys that the code uses, itself or through the prelude's functions."""
    names = {name.split(":")[0] for name in re.findall(r"\bkey\('([^']+)'", code)}
    if "job_key(" in code:
        names.add("job")
    for function, body in re.findall(r"^local function (\w+)\(.*?\)\n(.*?)^end$", PRELUDE, re.M | re.S):
        if re.search(rf"\b{function}\(", code):
            names |= touched(body)
    return names


@pytest.mark.parametrize("name", NAMES)
def test_a_script_tells_which_keys_it_touches(name: str) -> None:
    flags, *lines = (SCRIPTS / f"{name}.lua").read_text().split("\n")
    assert flags.startswith("#!lua")
    end = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    header = " ".join(line.removeprefix("--").strip() for line in lines[:end])
    assert re.match(r"\S.*\. (ARGV: .+ )?Returns .+ Keys: [^.]+$", header), header
    told = set(header.split(" Keys: ")[1].split(", "))
    assert told <= KEYSPACE
    assert {key.split(":")[0] for key in told} == touched("\n".join(lines[end:]))
