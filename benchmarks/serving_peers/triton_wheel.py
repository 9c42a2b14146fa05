"""Start the Triton server of nvidia-pytriton's wheel, which has only the Python backend."""

import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

PACKAGES = sysconfig.get_path("purelib")


def start(
    models: Path,
    scratch: Path,
    http_port: str,
    grpc_port: str,
    backends: Mapping[str, str] | None = None,
) -> NoReturn:
    """Replace this process by the server.

    Args:
        models: the model repository.
        scratch: an empty folder for the backends.
        http_port: the port for HTTP on 127.0.0.1.
        grpc_port: the port for gRPC on 127.0.0.1.
        backends: name -> code of `model.py`, for additional backends in Python.
    """
    packages = Path(PACKAGES)
    server = packages / "pytriton" / "tritonserver"
    libraries = {str(p.parent) for p in packages.glob("nvidia_pytriton.libs/*.so*")}
    libraries |= {str(p.parent) for p in server.rglob("*.so*")}
    libraries.add(str(Path(sys.base_prefix) / "lib"))
    program = server / "bin" / "tritonserver"
    program.chmod(0o755)
    options = {
        "model-repository": models,
        "backend-directory": _backends(server, scratch, backends or {}),
        "http-address": "127.0.0.1",
        "http-port": http_port,
        "grpc-address": "127.0.0.1",
        "grpc-port": grpc_port,
        "allow-metrics": "false",
        "log-info": "false",
    }
    environment = os.environ | {
        "LD_LIBRARY_PATH": ":".join(sorted(libraries)),
        "PYTHONHOME": sys.base_prefix,
    }
    arguments = [f"--{key}={value}" for key, value in options.items()]
    os.execve(program, [str(program), *arguments], environment)


def _backends(server: Path, scratch: Path, further: Mapping[str, str]) -> Path:
    """Copy the wheel's backends, add this interpreter's stub and further backends.

    Return the directory of the copy.
    """
    copy = scratch / "backends"
    shutil.copytree(server / "backends", copy)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = copy / "python" / "triton_python_backend_stub"
    shutil.copy(server / "python_backend_stubs" / version / stub.name, stub)
    stub.chmod(0o755)
    for name, code in further.items():
        (copy / name).mkdir()
        (copy / name / "model.py").write_text(code)
    return copy
