"""Print for which machines PyPI has wheels of all requirements of a package: python wheels.py

It needs the program `uv`, which reads the index and downloads no wheels. The table is part of
docs/production.md; the script exits with 1 if it differs, or if a promised wheel is missing.
"""

import os
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import indent
from typing import Any

_ROOT = Path(__file__).parents[2]
_PAGE = _ROOT / "docs" / "production.md"
# tensorflow-datasets requires this package of pure Python, whose releases are source archives.
_SOURCE = "promise"
_OURS = "keras-cnns"  # a requirement of the export, which is not on PyPI
# Name in the table -> folder and extras.
_PACKAGES = {
    "server": ("serve", ()),
    "server[uvloop]": ("serve", ("uvloop",)),
    "server[openvino]": ("serve", ("openvino",)),
    "training, export": ("export", ()),
}
_PLATFORMS = {  # title -> uv's name
    "Linux x86-64, glibc 2.36 (Debian 12)": "x86_64-manylinux_2_36",
    "Linux ARM64, glibc 2.36": "aarch64-manylinux_2_36",
    "Linux x86-64, glibc 2.28 (RHEL 8)": "x86_64-manylinux_2_28",
    "Linux ARM64, glibc 2.28": "aarch64-manylinux_2_28",
    "Linux x86-64, musl (Alpine)": "x86_64-unknown-linux-musl",
    "macOS 14, ARM64": "aarch64-apple-darwin",
    "Windows x86-64": "x86_64-pc-windows-msvc",
}
_PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# What the README and deploy/docker/Dockerfile promise.
_PROMISED = {
    (package, platform, python)
    for package in ("server", "server[uvloop]", "training, export")
    for platform in list(_PLATFORMS)[:2]
    for python in ("3.11", "3.12", "3.13")
}


def _requirements(folder: str, extras: tuple[str, ...]) -> list[str]:
    path = _ROOT / folder / "pyproject.toml"
    project: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))["project"]
    found = [each for each in project["dependencies"] if each != _OURS]
    if _OURS in project["dependencies"]:
        found += _requirements(".", ())
    return found + [each for extra in extras for each in project["optional-dependencies"][extra]]


def _problem(combination: tuple[str, str, str]) -> str:
    """Return why a combination cannot be installed from wheels, or an empty text."""
    package, platform, python = combination
    process = subprocess.run(
        [
            *("uv", "pip", "compile", "-", "--quiet", "--no-python-downloads"),
            *("--prerelease=disallow", "--only-binary=:all:", f"--no-binary={_SOURCE}"),
            *(f"--python-version={python}", f"--python-platform={_PLATFORMS[platform]}"),
        ],
        input="\n".join(_requirements(*_PACKAGES[package])),
        env=os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"},
        capture_output=True,
        text=True,
        check=False,
    )
    return process.stderr.strip() if process.returncode else ""


def main() -> None:
    """Print the table, and the reasons for what it lacks if that is wrong."""
    combinations = [
        (package, platform, python)
        for package in _PACKAGES
        for platform in _PLATFORMS
        for python in _PYTHONS
    ]
    with ThreadPoolExecutor(4) as threads:  # uv waits for the index most of the time
        problems = dict(zip(combinations, threads.map(_problem, combinations), strict=True))
    lines = [f"| | {' | '.join(_PACKAGES)} |", "| --- " * (len(_PACKAGES) + 1) + "|"]
    for platform in _PLATFORMS:
        cells = (
            ", ".join(each for each in _PYTHONS if not problems[package, platform, each]) or "none"
            for package in _PACKAGES
        )
        lines.append(f"| {platform} | {' | '.join(cells)} |")
    table = "\n".join(lines)
    print(table)
    missing = [each for each in combinations if each in _PROMISED and problems[each]]
    if not missing and table in _PAGE.read_text("utf-8"):
        return
    for combination, problem in problems.items():
        if problem:
            print(f"\n{', '.join(combination)}:\n{indent(problem, '    ')}", file=sys.stderr)
    sys.exit(
        f"promised, but without wheels: {missing}" if missing else f"{_PAGE} has another table"
    )


if __name__ == "__main__":
    main()
