import re
from collections import Counter
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.serve.conftest import Client, grey


@pytest.fixture(scope="module")
def asked(client: Client) -> Client:
    for content in (grey(0), grey(255), b"nonsense"):
        client.post("/v1/models/grey:classify-image", content=content)
    return client


def test_our_own_names_are_per_version(asked: Client) -> None:
    response = asked.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    values: dict[tuple[Any, ...], float] = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    version = (("model", "grey"), ("version", "1"))

    def value(name: str, *labels: tuple[str, str]) -> float:
        return values[(f"keras_cnns_serve_{name}", *sorted([*version, *labels]))]

    assert value("requests_total", ("code", "OK")) >= 2
    assert value("requests_total", ("code", "INVALID_ARGUMENT")) >= 1
    assert value("waiting") == 0
    for name in ("request_seconds", "queue_seconds", "decode_seconds", "compute_seconds"):
        assert value(f"{name}_count") >= 2
        assert value(f"{name}_bucket", ("le", "+Inf")) == value(f"{name}_count")
    assert value("batch_size_sum") >= 2
    assert value("version_info", ("state", "AVAILABLE"), ("reason", "")) == 1
    assert values[("keras_cnns_serve_ready",)] == 1
    assert values[("keras_cnns_serve_memory_budget_bytes",)] >= 2**24
    assert values[("keras_cnns_serve_memory_claimed_bytes",)] == 0
    assert values[("keras_cnns_serve_http_responses_total", ("status", "200"))] >= 2
    (engine,) = (
        dict(labels)
        for name, *labels in values
        if name == "keras_cnns_serve_engine_info" and ("model", "grey") in labels
    )
    assert engine["version"] == "1"
    assert (engine["file"], engine["engine"]) == ("model.onnx", "onnxruntime")
    assert (engine["precision"], engine["threads"]) == ("float32", "1")
    assert engine["reason"].startswith("the only format; ")
    assert any(name == "process_resident_memory_bytes" for name, *_ in values)
    reason = "labels.txt does not match its checksum in model.json"
    refused = {"model": "grey", "version": "2", "state": "END", "reason": reason}
    assert values[("keras_cnns_serve_version_info", *sorted(refused.items()))] == 1


def test_tensorflow_servings_names(asked: Client) -> None:
    text = asked.get("/monitoring/prometheus/metrics").text
    grey_ = 'model_name="grey",model_version="1"'
    found = Counter(re.findall(r"^(:tensorflow:[a-z_:]+)", text, re.MULTILINE))
    serving = ":tensorflow:serving:"
    for name in ("request_latency", "runtime_latency"):
        assert found[f"{serving}{name}_bucket"] > 20
        assert f"{serving}{name}_count{{{grey_}}}" in text
    ok = re.search(rf'{serving}request_count{{{grey_},status="OK"}} (\d+)', text)
    assert ok
    assert int(ok[1]) >= 2
    assert f":tensorflow:core:graph_runs{{{grey_}}}" in text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families[f"{serving}request_count"].type == "unknown"
    latency = families[f"{serving}request_latency"]
    assert latency.type == "histogram"
    microseconds = [
        sample.value
        for sample in latency.samples
        if sample.name.endswith("_sum") and sample.labels["model_name"] == "grey"
    ]
    assert microseconds[0] > 10  # an answer takes longer than that
