"""The files in deploy/ and the server agree: options, ports, paths, metrics, methods.

`make check-deploy` runs the tools that read these files, and nginx in front of two servers.
"""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from keras_cnns_serve import protos
from keras_cnns_serve.options import ServerOptions, parse
from tests.serve.conftest import Client, grey

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.suffix in (".yaml", ".yml", ".json"))
OVERTIME = 2  # seconds after --grace
METRIC = re.compile(r"\b(?:keras_cnns_serve|process)_[a-z_]+\b")
# Labels that Prometheus, Kubernetes and the buckets of a histogram add.
ADDED_LABELS = {"instance", "job", "le", "namespace", "pod"}


def load(path: str) -> Any:
    return yaml.safe_load((DEPLOY / path).read_text("utf-8"))


def instruction(name: str) -> str:
    """The last instruction of this name in the Dockerfile."""
    text = DOCKERFILE.read_text("utf-8").replace("\\\n", " ")
    return str(re.findall(rf"^\s*{name}\s+(.*)$", text, re.MULTILINE)[-1])


def settings(name: str) -> dict[str, str]:
    """The variables of a replica: systemd/first.conf or second.conf."""
    lines = (DEPLOY / "systemd" / name).read_text("utf-8").splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {key: value for key, _, value in pairs}


def unit_commands(name: str, setting: str) -> list[list[str]]:
    """The commands of a systemd file, as systemd would run them for the first replica."""
    text = (DEPLOY / "systemd" / name).read_text("utf-8").replace("\\\n", " ")
    variables = settings("first.conf") | {"CREDENTIALS_DIRECTORY": "/run/credentials"}
    found = re.findall(rf"^{setting}=(.+)$", text, re.MULTILINE)
    words = (re.sub(r"\$\{?([A-Z_]+)\}?", lambda m: variables[m[1]], each) for each in found)
    return [shlex.split(each) for each in words]


CONTAINER = load("kubernetes/deployment.yaml")["spec"]["template"]["spec"]
RUNTIME = load("kserve/runtime.yaml")["spec"]["containers"][0]
COMPOSE = load("compose.yaml")
COMMANDS = {
    "Dockerfile": json.loads(instruction("CMD")),
    "compose.yaml": COMPOSE["services"]["serve"]["command"],
    "kubernetes": CONTAINER["containers"][0]["args"],
    "kserve": RUNTIME["args"],
    "systemd": unit_commands("keras-cnns-serve@.service", "ExecStart")[0][1:],
    "systemd with TLS": unit_commands("tls.conf", "ExecStart")[0][1:],
}


def options(name: str) -> ServerOptions:
    return parse("keras-cnns-serve", "", COMMANDS[name])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(DEPLOY).as_posix())
def test_a_file_can_be_parsed(path: Path) -> None:
    text = path.read_text("utf-8")
    assert json.loads(text) if path.suffix == ".json" else list(yaml.safe_load_all(text))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_server_accepts_the_command_line(name: str) -> None:
    found = options(name)
    reached_from_outside = name in {"Dockerfile", "compose.yaml", "kubernetes", "kserve"}
    assert (found.host == "0.0.0.0") == (reached_from_outside or name == "systemd with TLS")
    # KServe's gateway authenticates, and the image leaves the choice to its user.
    assert bool(found.token_file) == (name not in {"Dockerfile", "kserve"})
    assert bool(found.tls_certificate) == (name == "systemd with TLS")
    assert not found.admin


def test_the_image_is_not_root_and_knows_its_ports() -> None:
    user, _, group = instruction("USER").partition(":")
    assert int(user) > 0
    assert int(group) > 0
    security = CONTAINER["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"]) == (int(user), int(group))
    ports = {int(port) for port in instruction("EXPOSE").split()}
    assert ports == {ServerOptions.port, 8500}
    assert json.loads(instruction("ENTRYPOINT")) == ["keras-cnns-serve"]


def test_the_image_has_what_it_copies_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    kept = [rule.removeprefix("!") for rule in rules[1:] if rule.startswith("!")]
    assert all((ROOT / path).exists() for path in kept)
    text = DOCKERFILE.read_text("utf-8")
    copied = [
        source for source, _ in re.findall(r"^COPY (?!--from)(\S+) (\S+)$", text, re.MULTILINE)
    ]
    assert len(copied) == 3
    for source in copied:
        assert any(path == source or path.startswith(f"{source}/") for path in kept), source
    # Without these, the wheel could not be built.
    project = tomllib.loads((ROOT / "serve" / "pyproject.toml").read_text("utf-8"))["project"]
    for needed in ("pyproject.toml", project["readme"], *project["license-files"]):
        assert f"serve/{needed}" in kept
    extras = re.search(r"^ARG EXTRAS=\[(.*)\]$", text, re.MULTILINE)
    assert extras
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])
    assert "constraints.txt" in text


def seconds(text: str) -> int:
    return int(re.fullmatch(r"(\d+)s?", text)[1])  # type: ignore[index]


def test_nobody_kills_a_server_that_is_still_answering() -> None:
    grace = {name: options(name).grace + OVERTIME for name in COMMANDS}
    assert seconds(COMPOSE["services"]["serve"]["stop_grace_period"]) > grace["compose.yaml"]
    wait = CONTAINER["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert wait[0] == "sleep"
    assert CONTAINER["terminationGracePeriodSeconds"] > grace["kubernetes"] + int(wait[1])
    unit = (DEPLOY / "systemd" / "keras-cnns-serve@.service").read_text("utf-8")
    stop = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert stop
    assert int(stop[1]) > max(grace["systemd"], grace["systemd with TLS"])
    # KServe leaves Kubernetes' default of 30 seconds.
    assert grace["kserve"] < 30


def probed() -> Iterator[str]:
    """The paths that the files request."""
    for container in (CONTAINER["containers"][0], RUNTIME):
        for key, probe in container.items():
            if key.endswith("Probe"):
                yield probe["httpGet"]["path"]
    source = (DEPLOY / "docker" / "healthcheck.py").read_text("utf-8")
    yield from re.findall(r'"http://127\.0\.0\.1:8501(/\w+)"', source)
    for name in ("keras-cnns-serve@.service", "tls.conf"):
        for command in unit_commands(name, "ExecStartPost"):
            yield re.sub(r"^https?://[^/]+", "", command[-1])
    yield load("prometheus/prometheus.yml")["scrape_configs"][0]["metrics_path"]
    yield CONTAINER_ANNOTATIONS["prometheus.io/path"]


CONTAINER_ANNOTATIONS = load("kubernetes/deployment.yaml")["spec"]["template"]["metadata"][
    "annotations"
]
NGINX = (DEPLOY / "nginx" / "keras-cnns-serve.conf").read_text("utf-8")


def test_the_server_answers_every_path_that_is_probed(client: Client) -> None:
    paths = list(probed())
    assert len(paths) >= 10
    assert set(paths) == {"/healthz", "/readyz", "/metrics"}
    for path in paths:
        assert client.get(path).status_code == 200


def test_the_ports_agree() -> None:
    http, grpc = (
        [int(settings(name)[key]) for name in ("first.conf", "second.conf")]
        for key in ("PORT", "GRPC_PORT")
    )
    assert (http[0], grpc[0]) == (ServerOptions.port, 8500)
    upstreams = re.findall(r"upstream keras_cnns_serve_(\w+) \{(.*?)\n\}", NGINX, re.DOTALL)
    found = {
        name: [int(port) for port in re.findall(r"server 127\.0\.0\.1:(\d+)", body)]
        for name, body in upstreams
    }
    # While a replica is draining, the other one is first, and the draining one its backup.
    assert found == {
        f"{name}{without}": ports
        for name, pair in (("http", http), ("grpc", grpc))
        for without, ports in (
            ("", pair),
            ("_without_first", pair[::-1]),
            ("_without_second", pair),
        )
    }
    (target,) = load("prometheus/prometheus.yml")["scrape_configs"][0]["static_configs"]
    assert target["targets"] == [f"serve:{options('compose.yaml').port}"]
    published = [port.rpartition(":")[2] for port in COMPOSE["services"]["serve"]["ports"]]
    assert published == [str(http[0]), str(grpc[0])]
    declared = {port["name"]: port["containerPort"] for port in CONTAINER["containers"][0]["ports"]}
    assert declared == {"http": http[0], "grpc": grpc[0]}
    for port in load("kubernetes/service.yaml")["spec"]["ports"]:
        assert declared[port["targetPort"]] == port["port"]
    assert CONTAINER_ANNOTATIONS["prometheus.io/port"] == str(http[0])
    kserve = options("kserve")
    assert RUNTIME["ports"][0]["containerPort"] == kserve.port
    assert RUNTIME["readinessProbe"]["httpGet"]["port"] == kserve.port


def test_envoy_has_the_same_replicas_and_hides_the_same() -> None:
    envoy = load("envoy/envoy.yaml")["static_resources"]
    found = {
        cluster["name"]: [
            endpoint["endpoint"]["address"]["socket_address"]["port_value"]
            for endpoint in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        ]
        for cluster in envoy["clusters"]
    }
    for name, key in (("http", "PORT"), ("grpc", "GRPC_PORT")):
        assert found[name] == [int(settings(each)[key]) for each in ("first.conf", "second.conf")]
    text = (DEPLOY / "envoy" / "envoy.yaml").read_text("utf-8")
    for path in re.findall(r"location (?:= )?(/\S+) \{ return 404; \}", NGINX):
        assert re.search(rf"match: {{(path|prefix): {path}}}", text)
    buffered = re.search(r"request_body_buffer_limit: (\d+)", text)
    assert buffered
    assert int(buffered[1]) == ServerOptions.max_body_bytes
    timeouts = re.findall(r"timeout: (\d+)s\}", text)
    assert len(timeouts) == 2
    assert all(int(each) > ServerOptions.timeout for each in timeouts)


def test_nginx_looks_for_the_file_that_systemd_creates() -> None:
    unit = (DEPLOY / "systemd" / "keras-cnns-serve@.service").read_text("utf-8")
    (directory,) = re.findall(r"^RuntimeDirectory=(.+)$", unit, re.MULTILINE)
    (created,) = re.findall(r"^ExecStop=/usr/bin/touch (.+)$", unit, re.MULTILINE)
    assert created == f"%t/{directory}/draining"
    files = re.findall(r"if \(-f (\S+)\) \{ set \$without (\w+); \}", NGINX)
    assert files == [
        (created.replace("%t", "/run").replace("%i", name), f"_without_{name}")
        for name in ("first", "second")
    ]
    for passed in re.findall(r"_pass \w+://(\S+);", NGINX):
        assert passed.endswith("$without")


def test_the_limits_of_nginx_are_those_of_the_server() -> None:
    megabytes = re.search(r"client_max_body_size (\d+)m;", NGINX)
    assert megabytes
    assert int(megabytes[1]) * 2**20 == ServerOptions.max_body_bytes
    timeouts = re.findall(r"_read_timeout (\d+)s;", NGINX)
    assert len(timeouts) == 2
    assert all(int(each) > ServerOptions.timeout for each in timeouts)


def test_nginx_knows_the_methods_of_grpc() -> None:
    services = {
        f"{package}.{name}"
        for package, name in (
            ("tensorflow.serving", "PredictionService"),
            ("tensorflow.serving", "ModelService"),
            ("inference", "GRPCInferenceService"),
            ("grpc.health.v1", "Health"),
        )
    }
    for name in services:
        assert protos.pool().FindServiceByName(name).methods
        assert name.rpartition(".")[2] in NGINX
    methods = protos.pool().FindServiceByName("tensorflow.serving.ModelService").methods_by_name
    assert {"GetModelStatus", "HandleReloadConfigRequest"} <= set(methods)
    oip = protos.pool().FindServiceByName("inference.GRPCInferenceService").methods_by_name
    assert sum(name.startswith("Repository") for name in oip) == 3


def expressions() -> Iterator[tuple[str, str]]:
    """Where each expression for Prometheus stands, and the expression."""
    dashboard = json.loads((DEPLOY / "grafana" / "keras-cnns-serve.json").read_text("utf-8"))
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in dashboard["templating"]["list"]:
        yield variable["name"], variable["query"]["query"]
    for group in load("prometheus/alerts.yml")["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for rule in load("kubernetes/prometheus-adapter.yaml")["rules"]["custom"]:
        yield "prometheus-adapter", rule["seriesQuery"]
    for metric in load("kubernetes/autoscaler.yaml")["spec"]["metrics"]:
        if metric["type"] == "Pods":
            yield "autoscaler", metric["pods"]["metric"]["name"]


def test_every_metric_that_is_queried_exists(client: Client) -> None:
    for content in (grey(0), b"nonsense"):
        client.post("/v1/models/grey:classify-image", content=content)
    names: set[str] = set()
    labels = set(ADDED_LABELS)
    for family in text_string_to_metric_families(client.get("/metrics").text):
        suffix = "_total" if family.type == "counter" else ""
        names |= {family.name + suffix} | {sample.name for sample in family.samples}
        labels |= {label for sample in family.samples for label in sample.labels}
    assert any(name == "process_resident_memory_bytes" for name in names)
    seen = set()
    for where, expression in expressions():
        queried = set(METRIC.findall(expression))
        assert queried or expression.startswith("up{"), where
        assert queried <= names, where
        used = set(re.findall(r"[{,]\s*(\w+)\s*(?:=~|!=|!~|=)", expression))
        for group in re.findall(r"\bby \(([^)]*)\)", expression):
            used |= {label.strip() for label in group.split(",")}
        assert used <= labels, where
        seen |= queried
    # Every metric of the server is on the dashboard or in an alert.
    ours = {
        re.sub(r"_(bucket|sum|count|created)$", "", name)
        for name in names
        if name.startswith("keras_cnns_serve_")
    }
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in seen}
    assert {name for name in ours if not name.endswith("_info")} - shown <= {
        name for name in ours if f"{name}_info" in ours
    }


def test_every_alert_is_tested_in_both_directions() -> None:
    alerts = [rule["alert"] for rule in load("prometheus/alerts.yml")["groups"][0]["rules"]]
    healthy, troubled = (
        [(case["alertname"], bool(case["exp_alerts"])) for case in test["alert_rule_test"]]
        for test in load("prometheus/alerts_test.yml")["tests"]
    )
    assert healthy == [(alert, False) for alert in alerts]
    assert troubled == [(alert, True) for alert in alerts]


def test_the_page_explains_every_alert() -> None:
    page = (ROOT / "docs" / "production.md").read_text("utf-8")
    alerts = [rule["alert"] for rule in load("prometheus/alerts.yml")["groups"][0]["rules"]]
    assert re.findall(r"^\| `([A-Z]\w+)` \|", page, re.MULTILINE) == alerts


def test_the_numbers_of_other_servers_are_those_of_the_benchmarks() -> None:
    page = (
        (ROOT / "docs" / "coming-from.md").read_text("utf-8").partition("## What was measured")[2]
    )
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(rows) > 10
    assert set(rows) <= set((ROOT / "benchmarks" / "README.md").read_text("utf-8").splitlines())


def test_kserve_runs_the_service_on_this_runtime() -> None:
    runtime, service = load("kserve/runtime.yaml"), load("kserve/inference-service.yaml")
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in {
        each["name"] for each in runtime["spec"]["supportedModelFormats"]
    }
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]


def test_kustomize_and_the_selectors_name_what_exists() -> None:
    kustomization = load("kubernetes/kustomization.yaml")
    for name in kustomization["resources"]:
        assert (DEPLOY / "kubernetes" / name).exists()
    image = CONTAINER["containers"][0]["image"]
    assert image.partition(":")[0] == kustomization["images"][0]["name"]
    template = load("kubernetes/deployment.yaml")["spec"]["template"]["metadata"]["labels"]
    for name, key in (
        ("service", "selector"),
        ("disruption-budget", "selector"),
        ("network-policy", "podSelector"),
    ):
        selector = load(f"kubernetes/{name}.yaml")["spec"][key]
        assert selector.get("matchLabels", selector) == template
    assert (
        load("kubernetes/autoscaler.yaml")["spec"]["scaleTargetRef"]["name"] == "keras-cnns-serve"
    )
