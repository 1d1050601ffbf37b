"""What a program has to have that uses the client alone."""

import subprocess
import sys
from importlib.metadata import requires

from packaging.requirements import Requirement

# Runs in a Python that has the standard library and some packages.
ONLY = """
import sys

class Only:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in {allowed!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Only())
import zimage
client = zimage.ZImageClient("http://127.0.0.1:9")
try:
    client.submit({{"prompt": "a cat"}})
except zimage.ServiceError as error:
    print(error.code)
"""


def with_needs(package: str) -> set[str]:
    """Return a package and what it needs, by the names under which they are imported."""
    found = {package}
    for text in requires(package) or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found |= with_needs(requirement.name)
    return found


def test_the_client_needs_httpx_alone() -> None:
    script = ONLY.format(allowed={"zimage", "network", *with_needs("httpx")})
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("unreachable\n", "")
