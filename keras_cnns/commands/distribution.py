"""The options of `keras-cnns train` for several devices and several processes."""

import importlib.util
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from keras_cnns.quiet import quiet_stderr
from keras_cnns.recipes import Recipe

if TYPE_CHECKING:
    from keras_cnns.training.distribution import Distribution

_PANEL = "Several devices and hosts"
_HOST_DEVICES = "--xla_force_host_platform_device_count"
_OTHER_BACKENDS = {
    "tensorflow": "Keras 3 cannot train with TensorFlow's MultiWorkerMirroredStrategy, and trains "
    "with MirroredStrategy not as on one device",
    "torch": "Keras 3 has no distribution for torch",
}

Devices = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Train on this number of devices in each process, which divide each batch among them; "
        "on a CPU, JAX divides its cores. Needs KERAS_BACKEND=jax. Example: --devices 4",
        rich_help_panel=_PANEL,
    ),
]
Coordinator = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Train in several processes, which meet at this address of process 0. Example: "
        "--coordinator 10.0.0.1:9300 --process-id 1 --processes 2",
        rich_help_panel=_PANEL,
    ),
]
ProcessId = Annotated[
    int | None,
    typer.Option(
        help="Number of this process, from 0; process 0 writes the run directory.",
        rich_help_panel=_PANEL,
    ),
]
Processes = Annotated[int | None, typer.Option(help="Number of processes.", rich_help_panel=_PANEL)]
ConnectSeconds = Annotated[
    int,
    typer.Option(
        min=1,
        help="Wait this number of seconds for the other processes.",
        rich_help_panel=_PANEL,
    ),
]


def choose(
    recipe: Recipe,
    devices: int | None,
    coordinator: str | None,
    process_id: int | None,
    processes: int | None,
    connect_seconds: int,
    *,
    excluded: Mapping[str, bool],
) -> Callable[[], AbstractContextManager["Distribution"]]:
    """Return a function whose result is a context manager that connects a training's devices.

    Call `choose` before JAX starts, because it sets the number of devices that JAX has on a CPU.

    Args:
        recipe: the recipe to train.
        devices: the number of devices in each process. None means one device in a single process,
            and all devices of each process if there are several processes.
        coordinator: HOST:PORT of process 0; None trains in one process.
        process_id: the number of this process.
        processes: the number of processes.
        connect_seconds: time to wait for the other processes.
        excluded: name of an option that requires one device -> whether the option is given.

    Raises:
        typer.BadParameter: the options contradict each other, or cannot train this recipe.
    """
    given = {"--coordinator": coordinator, "--process-id": process_id, "--processes": processes}
    present = [name for name, value in given.items() if value is not None]
    if not present and devices is None:
        with quiet_stderr():
            from keras_cnns.training.distribution import Distribution

        return lambda: nullcontext(Distribution())
    for option, is_given in excluded.items():
        if is_given:
            name = present[0] if present else "--devices"
            raise typer.BadParameter(
                f"it trains on one device; use it without {name}", param_hint=option
            )
    if reason := _OTHER_BACKENDS.get(backend := os.environ.get("KERAS_BACKEND") or "tensorflow"):
        raise typer.BadParameter(
            f"the backend is {backend}, and {reason}; set KERAS_BACKEND=jax",
            param_hint=present[0] if present else "--devices",
        )
    if importlib.util.find_spec("jax") is None:
        raise typer.BadParameter("several devices need jax: pip install 'keras-cnns[jax]'")
    if present and len(present) < len(given):
        missing = " and ".join(name for name in given if name not in present)
        raise typer.BadParameter(
            f"{' and '.join(present)} must come with {missing}, such as --coordinator "
            "10.0.0.1:9300 --process-id 1 --processes 2"
        )
    if coordinator is not None and processes is not None and process_id is not None:
        if processes < 2:
            raise typer.BadParameter(
                f"it is {processes}, and must be at least 2", param_hint="--processes"
            )
        if not 0 <= process_id < processes:
            raise typer.BadParameter(
                f"it is {process_id}, and must be from 0 to {processes - 1} for "
                f"{processes} processes",
                param_hint="--process-id",
            )
    _check_batch_size(recipe, (devices or 1) * (processes or 1))
    _set_host_devices(devices or 1)
    return lambda: _connect(devices, coordinator, process_id or 0, processes or 1, connect_seconds)


def _check_batch_size(recipe: Recipe, count: int) -> None:
    with quiet_stderr():
        from keras_cnns.training.distribution import check_batch_size

    try:
        check_batch_size(recipe.training.batch_size, count)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _set_host_devices(count: int) -> None:
    """Let JAX divide the CPU into devices; this has no effect on GPUs and TPUs."""
    flags = os.environ.get("XLA_FLAGS", "")
    if _HOST_DEVICES not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_HOST_DEVICES}={count}".strip()


def _connect(
    devices: int | None, coordinator: str | None, process_id: int, processes: int, seconds: int
) -> AbstractContextManager["Distribution"]:
    with quiet_stderr():
        from keras_cnns.training.distribution import on_local_devices
        from keras_cnns.training.processes import Address, connected

    if coordinator is None:
        return nullcontext(on_local_devices(devices or 1))
    return connected(
        Address.parse(coordinator), process_id, processes, devices=devices, seconds=seconds
    )
