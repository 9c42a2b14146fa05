"""Three distributions, each by itself: their wheels' contents, and a server without TensorFlow."""

import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from client import get, server

ROOT = Path(__file__).parents[2]
PROJECTS = {
    "keras_cnns": ROOT,
    "keras_cnns_export": ROOT / "export",
    "keras_cnns_serve": ROOT / "serve",
}
MEGABYTE = 10**6


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every project's sdist and wheel, built as for a release."""
    folder = tmp_path_factory.mktemp("dist")
    for project in PROJECTS.values():
        subprocess.run(
            [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, project],
            check=True,
            capture_output=True,
        )
    return folder


@pytest.mark.parametrize("package", PROJECTS)
def test_a_wheel_holds_its_own_package_alone(distributions: Path, package: str) -> None:
    (wheel,) = distributions.glob(f"{package}-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {package}
    assert f"{package}/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    sources = {
        path.relative_to(PROJECTS[package]).as_posix()
        for path in (PROJECTS[package] / package).rglob("*")
        if path.suffix in (".py", ".toml", ".html", ".css", ".csv", ".js", ".svg")
    }
    assert sources <= set(names)


def test_the_root_sdist_does_not_swallow_the_others(distributions: Path) -> None:
    (sdist,) = distributions.glob("keras_cnns-*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [name.split("/", 1)[1] for name in archive.getnames() if "/" in name]
    assert "keras_cnns/cli.py" in names
    assert not [name for name in names if name.startswith(("export/", "serve/", "tests/"))]


def test_constraints_are_names_and_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line


def test_every_requirement_is_constrained() -> None:
    held = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    for project in PROJECTS.values():
        metadata = tomllib.loads((project / "pyproject.toml").read_text())["project"]
        extras = metadata.get("optional-dependencies", {}).values()
        for requirement in [*metadata["dependencies"], *(each for e in extras for each in e)]:
            name = requirement
            for mark in "<>=![; ":
                name = name.partition(mark)[0]
            assert name.lower().replace("_", "-") in held | {"keras-cnns"}, requirement


@pytest.mark.soak
def test_the_serve_wheel_alone_serves_a_model(
    distributions: Path, model_repository: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    (wheel,) = distributions.glob("keras_cnns_serve-*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, "--no-compile", *constraints, str(wheel)], check=True)

    with server([str(environment / "bin" / "keras-cnns-serve")], model_repository) as address:
        assert get(f"{address}/v1/models/quick")["model_version_status"][0]["state"] == "AVAILABLE"

    (site_packages,) = (environment / "lib").glob("python*/site-packages")
    installed = {path.name.lower() for path in site_packages.iterdir()}
    assert "onnxruntime" in installed
    assert not installed & {"tensorflow", "keras", "torch", "jax", "keras_cnns"}
    size = sum(path.stat().st_size for path in site_packages.rglob("*") if path.is_file())
    assert size < 160 * MEGABYTE
