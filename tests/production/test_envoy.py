"""deploy/envoy in the Envoy that PyPI has, in front of two replicas."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.production.replicas import (
    Load,
    Replica,
    Site,
    check_what_is_not_for_clients,
    make_site,
    program,
    proxy,
    restart_without_a_failed_answer,
    two_replicas,
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("envoy"))


@pytest.fixture(scope="module")
def replicas(repository: Path, site: Site) -> Iterator[list[Replica]]:
    text = site.text("envoy/envoy.yaml")
    listen = "address: 0.0.0.0, port_value: 443"
    assert listen in text
    text = text.replace(listen, f"address: 127.0.0.1, port_value: {site.ports[443]}")
    path = site.folder / "envoy.yaml"
    path.write_text(text)
    command = [program("envoy", "make check-deploy installs it"), "--config-path", str(path)]
    command += ["--log-level", "warning", "--concurrency", "2", "--use-dynamic-base-id"]
    checked = subprocess.run(
        [*command, "--mode", "validate"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "deprecated" not in checked.stderr.lower(), checked.stderr
    # Envoy does not look for the file of ExecStop=, but needs its second to notice that the
    # replica that was restarted before answers again.
    with two_replicas(repository, site, draining=True) as both, proxy(command, site):
        yield both


def test_a_rolling_restart_loses_no_answer(replicas: list[Replica], site: Site) -> None:
    restart_without_a_failed_answer(replicas, Load.through(site))


@pytest.mark.usefixtures("replicas")
def test_what_is_not_for_clients_is_hidden(site: Site) -> None:
    check_what_is_not_for_clients(site)
