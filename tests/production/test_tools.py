"""The files in deploy/, checked by the tools that will read them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from keras_cnns_export.server_files import kserve_manifest
from tests.production.replicas import DEPLOY, program

DEBIAN = "apt-get install nginx-light prometheus systemd"
PYPI = "make check-deploy installs it"
MAX_EXPOSURE = 25  # tenths: systemd-analyze rates services from 0 (safe) to 10
KUBERNETES = sorted(
    path
    for path in (DEPLOY / "kubernetes").glob("*.yaml")
    if path.stem not in ("kustomization", "prometheus-adapter")
)


def run(*command: str, cwd: Path = DEPLOY) -> str:
    """Runs a tool, demands success, and returns what it printed."""
    process = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout + process.stderr


def test_hadolint_accepts_the_dockerfile() -> None:
    run(program("hadolint", PYPI), "docker/Dockerfile")


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_accepts_the_alerts(arguments: tuple[str, ...]) -> None:
    printed = run(program("promtool", DEBIAN), *arguments, cwd=DEPLOY / "prometheus")
    assert "SUCCESS" in printed


@pytest.mark.parametrize("tls", [False, True], ids=["behind a proxy", "with tls.conf"])
def test_systemd_accepts_the_unit_and_finds_it_safe(tls: bool, tmp_path: Path) -> None:
    analyze = program("systemd-analyze", DEBIAN)
    name = "keras-cnns-serve@.service"
    text = (DEPLOY / "systemd" / name).read_text("utf-8")
    installed = "/opt/keras-cnns-serve/bin/keras-cnns-serve"
    assert installed in text
    # systemd wants an existing program.
    text = text.replace(installed, sys.executable)
    (tmp_path / name).write_text(text)
    if tls:
        folder = tmp_path / f"{name}.d"
        folder.mkdir()
        dropin = (DEPLOY / "systemd" / "tls.conf").read_text("utf-8")
        (folder / "tls.conf").write_text(dropin.replace(installed, sys.executable))
    unit = str(tmp_path / name.replace("@", "@first"))
    (tmp_path / name.replace("@", "@first")).symlink_to(tmp_path / name)
    verified = subprocess.run(
        [analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    complaints = [line for line in verified.stderr.splitlines() if "keras-cnns-serve" in line]
    assert not complaints
    printed = run(
        *(analyze, "security", "--offline=true", "--no-pager"),
        *(f"--threshold={MAX_EXPOSURE}", unit),
    )
    rating = re.search(r"Overall exposure level for \S+: ([\d.]+)", printed)
    assert rating
    assert float(rating[1]) * 10 <= MAX_EXPOSURE


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.stem)
def test_kubernetes_knows_every_key(path: Path) -> None:
    run(program("kubernetes-validate", PYPI), "--strict", str(path))


def test_kserve_knows_every_key(tmp_path: Path) -> None:
    python = str(Path(program("kubernetes-validate", PYPI)).with_name("python"))
    script = str(Path(__file__).with_name("kserve_types.py"))
    manifests = ("kserve/runtime.yaml", "kserve/inference-service.yaml")
    exported = tmp_path / "inference-service.yaml"
    exported.write_text(kserve_manifest("digits", ["saved_model", "onnx"]))
    run(python, script, *manifests, str(exported))
    wrong = tmp_path / "wrong.yaml"
    text = (DEPLOY / manifests[0]).read_text("utf-8")
    wrong.write_text(text.replace("supportedModelFormats", "supportedModelFormat"))
    process = subprocess.run(
        [python, script, str(wrong)], capture_output=True, text=True, check=False
    )
    assert process.returncode == 1
    assert "does not know /spec/supportedModelFormat" in process.stderr
