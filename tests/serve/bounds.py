"""Print the requirements of serve/pyproject.toml: the lowest or the newest allowed versions.

    python tests/serve/bounds.py lowest|newest

`make test-lowest` and `make test-newest` install them and run the server's tests.
"""

import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[2] / "serve" / "pyproject.toml"


def requirements(bound: str) -> list[str]:
    """Return every requirement, also of the extras: `name==lowest`, or as it is written."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    # TensorFlow's own requirements contradict the lowest versions of the other packages.
    listed = [each for name, extra in extras.items() if name != "tensorflow" for each in extra]
    listed += project["dependencies"]
    if bound == "newest":
        return listed
    return [re.sub(r"^([\w.-]+)>=([\w.]+).*$", r"\1==\2", each) for each in listed]


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1])))
