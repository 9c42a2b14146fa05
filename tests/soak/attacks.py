"""The table of attacks, and a program that runs one against any server:

    python -m tests.soak.attacks NAME HTTP_PORT GRPC_PORT SECONDS MODELS

It prints `attacking`, and at the end, as JSON, what the attackers sent and received. It runs at
a niceness of 5: on the server's machine it must not take cores that a real attacker would not have.
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from . import grpc_attacks as on_grpc
from . import http_attacks as on_http
from .payloads import PROTOBUF_V1, PROTOBUF_V2
from .target import INFER, PREDICT, Target, run

NICENESS = 5


@dataclass(frozen=True)
class Attack:
    """An attack that goes on until it is cancelled."""

    does: str
    run: Callable[[Target], Awaitable[None]]
    seconds: float = 10.0
    open_files: int | None = None  # limit of the server's file descriptors


async def _crash_and_cancel(target: Target) -> None:
    await asyncio.gather(on_http.crashes(target), on_grpc.cancels(target))


ATTACKS = {
    # HTTP: memory and decoding
    "gzip-bodies": Attack("40 gzip bodies of 30 KB, 31 MB of lists each", on_http.gzip_bodies),
    "one-json-body": Attack("a gzip body of 75 KB of nested lists", on_http.one_json_body),
    "json-bodies": Attack("eight gzip bodies of 75 KB of nested lists", on_http.json_bodies),
    "plain-json": Attack("four bodies of 31 MB of empty lists", on_http.plain_json),
    "v2-nested-json": Attack("four V2 bodies of 31 MB of nested lists", on_http.nested_v2_json),
    "progressive-jpegs": Attack("two JPEGs of 100 KB and 9,987 scans", on_http.progressive_jpegs),
    "large-jpegs": Attack("eight JPEGs of 632 bytes and 49 megapixels", on_http.large_jpegs),
    "narrow-pngs": Attack("four PNGs of 1 x 49,000,000 pixels", on_http.narrow_pngs),
    "photographs": Attack("two forms of 28 photographs of 12 megapixels", on_http.photographs),
    "unfinished-bodies": Attack("40 bodies, 30 of 31 MB sent", on_http.unfinished_bodies),
    "admin-loads": Attack("eight clients that unload and load a model", on_http.admin_loads),
    "endless-graph": Attack("versions whose ONNX graph never ends", on_http.endless_graph),
    # HTTP: connections
    "slow-heads": Attack("200 heads of requests, byte by byte", on_http.slow_heads),
    "pipelining": Attack("requests without an end, no answer read", on_http.pipelining),
    "one-byte-chunks": Attack("bodies in chunks of one byte", on_http.one_byte_chunks),
    "slow-clients": Attack("100 slow senders, 100 slow readers", on_http.slow_clients),
    "reconnects": Attack("right requests, a new connection for each", on_http.reconnects),
    "open-connections": Attack(
        "400 connections to each port, 256 file descriptors",
        on_http.open_connections,
        open_files=256,
    ),
    # HTTP/2 frames
    "rapid-reset": Attack("calls that are reset at once", on_grpc.rapid_reset),
    "pings": Attack("PING frames", on_grpc.pings),
    "settings": Attack("SETTINGS frames", on_grpc.settings),
    "continuation": Attack("CONTINUATION frames without an end", on_grpc.continuation),
    "empty-data": Attack("empty DATA frames", on_grpc.empty_data),
    "hpack": Attack("headers of 9 MB from 3 KB by HPACK's table", on_grpc.hpack),
    # gRPC messages
    "unfinished-calls": Attack("2,000 calls without a message", on_grpc.unfinished_calls),
    "unfinished-messages": Attack("40 messages, 30 of 31 MB sent", on_grpc.unfinished_messages),
    "repeated-values": Attack(
        "100 clients, tensors of 32 MiB from two values", on_grpc.repeated_values
    ),
    "gzip-messages": Attack("40 messages of 31 MB in 30 KB of gzip", on_grpc.gzip_messages),
    **{
        name: Attack(f"PredictRequests of 6 to 31 MB: {name[3:]}", on_grpc.messages(PREDICT, name))
        for name in PROTOBUF_V1
    },
    **{
        name: Attack(f"ModelInferRequests of 6 to 31 MB: {name[3:]}", on_grpc.messages(INFER, name))
        for name in PROTOBUF_V2
    },
    # Both ports
    "crash-and-cancel": Attack(
        "eight clients that reset connections, eight that cancel calls", _crash_and_cancel, 300.0
    ),
}


def main() -> None:
    name, http_port, grpc_port, seconds, models = sys.argv[1:]
    os.nice(NICENESS)
    target = Target(int(http_port), int(grpc_port), Path(models))
    print("attacking", flush=True)
    asyncio.run(run(ATTACKS[name].run, target, float(seconds)))
    sent = sum(pace.sent for pace in (target.flood, target.bulk, target.burst))
    print(
        json.dumps(
            {"sent_mb": round(sent / 1e6, 1), "answers": dict(target.answers.most_common(8))}
        )
    )


if __name__ == "__main__":
    main()
