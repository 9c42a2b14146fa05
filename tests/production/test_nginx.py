"""deploy/nginx in Debian's nginx, in front of two replicas."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.production.replicas import (
    DEPLOY,
    Load,
    Replica,
    Site,
    check_that_a_draining_replica_gets_no_requests,
    check_what_is_not_for_clients,
    make_site,
    program,
    proxy,
    restart_without_a_failed_answer,
    two_replicas,
)

# What Debian's /etc/nginx/nginx.conf has around the files in conf.d.
MAIN = """
{user}
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("nginx"))


@pytest.fixture(scope="module")
def replicas(repository: Path, site: Site) -> Iterator[list[Replica]]:
    text = site.text("nginx/keras-cnns-serve.conf")
    listen = "listen 443 ssl http2;"
    assert listen in text
    text = text.replace(listen, f"listen 127.0.0.1:{site.ports[443]} ssl http2;")
    rate = "rate=200r/s;"
    assert rate in text
    text = text.replace(rate, "rate=20000r/s;")
    (site.folder / "site.conf").write_text(text)
    user = "user root;" if os.geteuid() == 0 else ""
    main = site.folder / "nginx.conf"
    main.write_text(MAIN.format(folder=site.folder, user=user))
    nginx = program("nginx", "apt-get install nginx-light")
    command = [nginx, "-c", str(main), "-p", str(site.folder), "-e", "stderr"]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "[warn]" not in checked.stderr
    with (
        two_replicas(repository, site, draining=True) as both,
        proxy([*command, "-g", "daemon off;"], site),
    ):
        yield both


def test_a_rolling_restart_loses_no_answer(replicas: list[Replica], site: Site) -> None:
    restart_without_a_failed_answer(replicas, Load.through(site))


def test_a_draining_replica_gets_no_requests(replicas: list[Replica], site: Site) -> None:
    check_that_a_draining_replica_gets_no_requests(replicas, site)


@pytest.mark.usefixtures("replicas")
def test_what_is_not_for_clients_is_hidden(site: Site) -> None:
    check_what_is_not_for_clients(site)


@pytest.mark.usefixtures("replicas")
@pytest.mark.parametrize(("path", "status"), [("/healthz", 0), ("/no-such-path", 1)])
def test_the_health_check_of_the_image_speaks_tls(site: Site, path: str, status: int) -> None:
    process = subprocess.run(
        [sys.executable, str(DEPLOY / "docker" / "healthcheck.py")],
        env={"HEALTHCHECK_URL": site.url + path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == status, process.stderr
    assert "Traceback" not in process.stderr
