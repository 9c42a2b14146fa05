"""List the requirements for which a platform has no wheel, so that pip would need a compiler.

    python tests/production/wheels.py [--report FILE]

`make check-wheels` runs it. For each distribution with its extras, for Linux on amd64 and arm64 and
Python 3.11 to 3.13, pip resolves the versions of constraints.txt from wheels alone, for glibc 2.28 and
later (Debian 10, RHEL 8), and downloads nothing. pip evaluates environment markers for the machine
on which it runs; the requirements that have markers are few.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_PYTHONS = ("3.11", "3.12", "3.13")
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_GLIBC = range(5, 29)  # manylinux_2_5 to manylinux_2_28
_OWN = ("keras-cnns",)  # what this repository builds itself
_PROJECTS = {
    "keras-cnns": _ROOT,
    "keras-cnns-export": _ROOT / "export",
    "keras-cnns-serve": _ROOT / "serve",
}
_DEVELOPMENT = "dev"  # an extra for this repository's tests


@dataclass(frozen=True)
class _Set:
    """The requirements of a distribution, or of one of its extras."""

    name: str
    requirements: tuple[str, ...]


def _sets() -> list[_Set]:
    sets = []
    for distribution, folder in _PROJECTS.items():
        project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
        extras = project.get("optional-dependencies", {})
        groups = {"": project["dependencies"]} | {
            name: listed for name, listed in extras.items() if name != _DEVELOPMENT
        }
        for extra, listed in groups.items():
            name = f"{distribution}[{extra}]" if extra else distribution
            kept = tuple(each.replace(" ", "") for each in listed if each not in _OWN)
            sets.append(_Set(name, kept))
    return sets


def _resolve(requirements: tuple[str, ...], machine: str, python: str) -> tuple[list[str], str]:
    """Return the wheels that pip would install, and its message if it finds none for some."""
    tags = [f"manylinux_2_{minor}_{machine}" for minor in _GLIBC]
    tags += [f"manylinux2014_{machine}", f"manylinux2010_{machine}", f"manylinux1_{machine}"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
        command += ["--ignore-installed", "--target", folder, "--report", str(report)]
        command += ["--only-binary", ":all:", "--python-version", python]
        command += [option for tag in tags for option in ("--platform", tag)]
        command += ["--constraint", str(_ROOT / "constraints.txt"), *requirements]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode:
            return [], process.stderr
        installed = json.loads(report.read_text("utf-8"))["install"]
    return [each["download_info"]["url"].rpartition("/")[2] for each in installed], ""


def _missing(requirements: tuple[str, ...], machine: str, python: str) -> list[str]:
    """Return the requirements, also of requirements, for which there is no wheel."""
    wheels, message = _resolve(requirements, machine, python)
    if wheels or not requirements:
        return []
    if len(requirements) > 1:
        parts = (_missing((each,), machine, python) for each in requirements)
        found = [name for part in parts for name in part]
        return list(dict.fromkeys(found)) or [f"together: {message.strip().splitlines()[-1]}"]
    names = re.findall(r"No matching distribution found for (\S+)", message)
    if not names:
        names = re.findall(r"requested \(constraint\) (\S+)", message)
    return names or [f"{requirements[0]}: {message.strip().splitlines()[-1]}"]


def main() -> int:
    """Print a table of all sets and platforms, and return 1 if a wheel is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--report", type=Path, metavar="FILE", help="also write the result as JSON")
    options = parser.parse_args()
    platforms = list(product(_PYTHONS, _MACHINES))
    cases = [(each, python, machine) for each in _sets() for python, machine in platforms]

    def check(case: tuple[_Set, str, str]) -> list[str]:
        each, python, machine = case
        return _missing(each.requirements, _MACHINES[machine], python)

    result: dict[str, dict[str, list[str]]] = {}
    with ThreadPoolExecutor(4) as pool:
        for (each, python, machine), missing in zip(cases, pool.map(check, cases), strict=True):
            platform = f"Python {python}, {machine}"
            result.setdefault(each.name, {})[platform] = missing
            print(f"{each.name:<34} {platform:<20} {', '.join(missing) or 'complete'}", flush=True)
    if options.report:
        options.report.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return int(any(missing for row in result.values() for missing in row.values()))


if __name__ == "__main__":
    sys.exit(main())
