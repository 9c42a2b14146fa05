"""The options of `keras-cnns train` for several devices and several processes."""

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from keras_cnns.quiet import quiet_stderr
from keras_cnns.recipes import Recipe

if TYPE_CHECKING:
    from keras_cnns.training.distribution import Distribution

_PANEL = "Several devices and hosts"
_HOST_DEVICES = "--xla_force_host_platform_device_count"
_NO_SEVERAL_DEVICES = {"torch": "Keras 3 has no distribution for torch"}
_NO_SEVERAL_HOSTS = {
    "tensorflow": "Keras 3 cannot train with TensorFlow's MultiWorkerMirroredStrategy",
    **_NO_SEVERAL_DEVICES,
}
_CONNECT_SECONDS = 120

Devices = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Train on this number of devices in each process. The devices divide each batch among "
        "them; on a CPU, they share its cores. Needs TensorFlow or KERAS_BACKEND=jax. Example: "
        "--devices 4",
        rich_help_panel=_PANEL,
    ),
]
Coordinator = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Train in several processes, which connect to process 0 at this address. Needs "
        "KERAS_BACKEND=jax. Example: --coordinator 10.0.0.1:9300 --process-id 1 --processes 2",
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
    int | None,
    typer.Option(
        min=1,
        help="Wait this number of seconds for the other processes; with --coordinator, the default "
        f"is {_CONNECT_SECONDS}.",
        rich_help_panel=_PANEL,
    ),
]


def choose(
    recipe: Recipe,
    devices: int | None,
    coordinator: str | None,
    process_id: int | None,
    processes: int | None,
    connect_seconds: int | None,
    *,
    excluded: Mapping[str, bool],
) -> Callable[[], AbstractContextManager["Distribution"]]:
    """Return a function whose result is a context manager that connects a training's devices.

    Call `choose`, and enter the context manager, before the backend starts, because both set the
    number of devices that the backend has on a CPU.

    Args:
        recipe: the recipe to train.
        devices: the number of devices in each process. None means one device in a single process,
            and all devices of each process if there are several processes.
        coordinator: HOST:PORT of process 0; None trains in one process.
        process_id: the number of this process.
        processes: the number of processes.
        connect_seconds: time to wait for the other processes; None for the default.
        excluded: name of an option that requires one device -> whether the option is given.

    Raises:
        typer.BadParameter: the options contradict each other, or cannot train this recipe.
    """
    given = {"--coordinator": coordinator, "--process-id": process_id, "--processes": processes}
    present = [name for name, value in given.items() if value is not None]
    if connect_seconds is not None and coordinator is None:
        raise typer.BadParameter(
            "it is the time to wait for other processes, and needs --coordinator, such as "
            "--coordinator 10.0.0.1:9300 --process-id 1 --processes 2",
            param_hint="--connect-seconds",
        )
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
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if reason := (_NO_SEVERAL_HOSTS if present else _NO_SEVERAL_DEVICES).get(backend):
        raise typer.BadParameter(
            f"the backend is {backend}, and {reason}; set KERAS_BACKEND=jax",
            param_hint=present[0] if present else "--devices",
        )
    if backend == "tensorflow":
        return _choose_replicas(recipe, devices or 1)
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
    with quiet_stderr():
        from keras_cnns.training.distribution import check_batch_size, on_local_devices
        from keras_cnns.training.processes import Address, connected

    with _as_wrong_usage():
        check_batch_size(recipe.training.batch_size, (devices or 1) * (processes or 1))
        address = None if coordinator is None else Address.parse(coordinator)
    _set_host_devices(devices or 1)
    if address is None:
        return lambda: _open(on_local_devices, devices or 1)
    return lambda: connected(
        address,
        process_id or 0,
        processes or 1,
        devices=devices,
        seconds=connect_seconds or _CONNECT_SECONDS,
    )


def _choose_replicas(
    recipe: Recipe, devices: int
) -> Callable[[], AbstractContextManager["Distribution"]]:
    """Return the function that `choose` describes, for TensorFlow."""
    with quiet_stderr():
        from keras_cnns.training.distribution import check_batch_size
        from keras_cnns.training.mirrored import check_recipe, on_local_replicas

    with _as_wrong_usage():
        check_batch_size(recipe.training.batch_size, devices)
        if devices > 1:
            check_recipe(recipe)
    return lambda: _open(on_local_replicas, devices)


def _open(
    find: Callable[[int], "Distribution"], devices: int
) -> AbstractContextManager["Distribution"]:
    """Return a context manager for devices of this process."""
    with _as_wrong_usage():
        return nullcontext(find(devices))


@contextmanager
def _as_wrong_usage() -> Iterator[None]:
    """Report a ValueError in the block as wrong usage of the command."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _set_host_devices(count: int) -> None:
    """Let JAX divide the CPU into devices; this has no effect on GPUs and TPUs."""
    flags = os.environ.get("XLA_FLAGS", "")
    if _HOST_DEVICES not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_HOST_DEVICES}={count}".strip()
