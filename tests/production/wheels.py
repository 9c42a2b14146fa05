"""List the requirements for which a platform has no wheel, so that pip would need a compiler.

    python tests/production/wheels.py

`make check-wheels` runs it. For Linux on amd64 and arm64 and Python 3.11 to 3.13, it asks the package
index whether the versions of constraints.txt exist as wheels for glibc 2.28 and later (Debian 10, RHEL 8).
It checks everything that the three distributions and their extras install there, but for `dev`. Packages
that are installed here from a wheel for every platform need no question. Nothing is downloaded.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from itertools import product
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ROOT = Path(__file__).parents[2]
_PYTHONS = ("3.11", "3.12", "3.13")
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_GLIBC = range(5, 29)  # manylinux_2_5 to manylinux_2_28
_PROJECTS = {
    "keras-cnns": _ROOT,
    "keras-cnns-export": _ROOT / "export",
    "keras-cnns-serve": _ROOT / "serve",
}
_DEVELOPMENT = "dev"  # an extra for this repository's tests
_THREADS = 4  # questions to the index at a time


def _project(distribution: str) -> dict[str, list[str]]:
    """Return the requirements of a distribution by extra; "" are those of the distribution itself."""
    text = (_PROJECTS[distribution] / "pyproject.toml").read_text("utf-8")
    project = tomllib.loads(text)["project"]
    extras = project.get("optional-dependencies", {})
    return {"": project["dependencies"]} | {k: v for k, v in extras.items() if k != _DEVELOPMENT}


def _closure(requirements: Iterable[str], environment: dict[str, str]) -> set[str]:
    """Return the names of everything that is installed with these requirements on a platform."""
    names: set[str] = set()
    seen = set()
    waiting = [(Requirement(each), "") for each in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        marker = requirement.marker
        if marker is not None and not marker.evaluate(environment | {"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for wanted in ("", *requirement.extras):
            if (name, wanted) in seen:
                continue
            seen.add((name, wanted))
            names.add(name)
            if name in _PROJECTS:
                nested = _project(name)[wanted]
            else:
                nested = metadata.requires(name) or []
            waiting += [(Requirement(each), wanted) for each in nested]
    return names - set(_PROJECTS)


def _is_pure(name: str) -> bool:
    """Return whether the installed wheel of a package is for every platform."""
    wheel = metadata.distribution(name).read_text("WHEEL") or ""
    return all(tag.endswith("-none-any") for tag in re.findall(r"^Tag: (\S+)", wheel, re.MULTILINE))


def _has_wheel(name: str, version: str, python: str, machine: str) -> bool:
    """Return whether the index has a wheel of this version for a platform."""
    tags = [f"manylinux_2_{minor}_{machine}" for minor in _GLIBC]
    tags += [f"manylinux{year}_{machine}" for year in (1, 2010, 2014)]
    command = [sys.executable, "-m", "pip", "index", "versions", name, "--pre", "--quiet"]
    command += ["--only-binary", ":all:", "--python-version", python]
    command += [option for tag in tags for option in ("--platform", tag)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode and "No matching distribution" not in process.stderr:
        sys.exit(f"{' '.join(command[2:6])}: {process.stderr.strip().splitlines()[-1]}")
    listed = re.search(r"Available versions: (.*)", process.stdout)
    return listed is not None and version in listed[1].split(", ")


def main() -> int:
    """Print a table of distributions and platforms, and return 1 if a wheel is missing."""
    lines = (_ROOT / "constraints.txt").read_text("utf-8").split()
    pins = {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in lines}
    sets: dict[tuple[str, str, str], set[str]] = {}
    for distribution, (python, machine) in product(_PROJECTS, product(_PYTHONS, _MACHINES)):
        environment = {
            "platform_machine": _MACHINES[machine],
            "python_version": python,
            "python_full_version": f"{python}.0",
            "sys_platform": "linux",
            "platform_system": "Linux",
        }
        for extra, requirements in _project(distribution).items():
            name = f"{distribution}[{extra}]" if extra else distribution
            sets[name, python, machine] = _closure(requirements, environment)
    every = sorted(set().union(*sets.values()))
    if unpinned := [name for name in every if name not in pins and not _is_pure(name)]:
        sys.exit(f"constraints.txt does not name {', '.join(unpinned)}")
    questions = [
        (name, python, machine)
        for name, (python, machine) in product(every, product(_PYTHONS, _MACHINES))
        if not _is_pure(name)
        and any(name in names for key, names in sets.items() if key[1:] == (python, machine))
    ]
    print(f"{len(every)} packages, {len({name for name, *_ in questions})} of them compiled")
    with ThreadPoolExecutor(_THREADS) as pool:
        answers = pool.map(lambda q: _has_wheel(q[0], pins[q[0]], q[1], _MACHINES[q[2]]), questions)
        missing = {question for question, found in zip(questions, answers, strict=True) if not found}
    for (name, python, machine), names in sets.items():
        lacking = sorted(each for each in names if (each, python, machine) in missing)
        shown = ", ".join(f"{each}=={pins[each]}" for each in lacking) or "complete"
        print(f"{name:<34} Python {python}, {machine:<6} {shown}")
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
