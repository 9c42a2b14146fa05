"""Score the shards of a run on the nodes of a Ray cluster.

Every actor uses as many cores as the node with the fewest cores has. Each node therefore runs one
actor, or several if it has enough cores. Ray Data sends each actor the indices of the shards to
score. An actor loads the model once. It scores each shard with its cores, as a single machine does,
writes the shard, and returns only the counts: neither images nor rows pass through Ray. All nodes
must see the same files: the model, the images that are not URIs, and the directory of the shards.
"""

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from keras_cnns_serve.errors import InvalidInputError, ServeError, one_line
from keras_cnns_serve.repository.files import ModelVersion

from .options import ScoringOptions
from .output import Output
from .rows import Totals
from .shards import load, open_version, write_shards

_CONNECT_SECONDS = 5.0
_ERROR, _SHARD, _COUNTS = "error", "shard", "counts"  # the columns of Ray Data's rows


def write_on_cluster(
    source: ModelVersion, options: ScoringOptions, shards: Sequence[int]
) -> Iterator[Totals]:
    """Write shards on the nodes of a Ray cluster, and yield the counts of each shard.

    The environment variable RAY_ADDRESS contains the cluster's address. If it is not set, this
    machine becomes a cluster of one node.

    Raises:
        ServeError: Ray is not installed, the cluster does not answer, or a shard cannot be written.
    """
    if not shards:
        return
    ray = _connect()
    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    cores = int(min((each for each in nodes if each >= 1), default=1))
    actors = min(sum(int(each) // cores for each in nodes) or 1, len(shards))
    dataset = ray.data.from_items(
        [{_SHARD: shard} for shard in shards], override_num_blocks=len(shards)
    ).map(
        _ShardWriter,
        fn_constructor_args=(options, source.version, str(Path.cwd()), cores),
        num_cpus=cores,
        concurrency=actors,
    )
    try:
        for row in dataset.iter_rows():
            if row[_ERROR]:
                raise ServeError(row[_ERROR])
            yield row[_COUNTS]
    except ray.exceptions.RayError as error:
        raise ServeError(f"the Ray cluster failed: {one_line(error)}") from error


def _connect() -> Any:
    """Return the module `ray`, connected to a cluster.

    Raises:
        ServeError: Ray is not installed, or the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics are sent
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # hides warnings about Ray's own actors
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InvalidInputError(
            "--engine ray needs an extra: pip install 'keras-cnns-serve[ray]'"
        ) from error
    if not ray.is_initialized():
        # Without an explicit address, Ray could wait for an earlier cluster of this machine that
        # has ended.
        address = os.environ.get("RAY_ADDRESS") or "local"
        try:
            _check_port(address)
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            raise ServeError(
                f"the Ray cluster at RAY_ADDRESS={address} does not answer: {one_line(error)}"
            ) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def _check_port(address: str) -> None:
    """Raise OSError if nothing listens at `HOST:PORT`; Ray would retry for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()


class _ShardWriter:
    """An actor that scores and writes one shard after another.

    Args:
        options: the options of the run.
        version: the version of the model.
        directory: the working directory of the run, to which relative paths refer.
        cores: the number of cores that this actor may use.
    """

    def __init__(self, options: ScoringOptions, version: int, directory: str, cores: int) -> None:
        os.chdir(directory)
        self._source = open_version(options.model, version)
        self._loaded = load(self._source, options, cores)
        self._options, self._cores = options, cores
        assert options.to is not None
        self._output = Output(options.to, options.is_single_file)
        chosen, wanted = self._loaded.format.name, self._output.join()
        self._error = (
            ""
            if chosen == wanted
            else f"the node {socket.gethostname()} chose the format {chosen}, but this run uses "
            f"{wanted}; install the same packages on all nodes, or give a --precision that all of "
            "them support"
        )

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write a shard, and return its counts or the message of an error."""
        if self._error:
            return {_COUNTS: None, _ERROR: self._error}
        shard, totals = int(row[_SHARD]), Totals()
        names = [(shard, self._output.names_of(shard))]
        try:
            for counts in write_shards(
                self._source, self._loaded, names, self._options, self._output, self._cores
            ):
                totals.update(counts)
        except (ServeError, OSError) as error:
            return {_COUNTS: None, _ERROR: one_line(error)}
        return {_COUNTS: totals, _ERROR: ""}
