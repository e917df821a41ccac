"""What refers to what in k8s/: names, labels, ports and numbers that no schema sees."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from pathlib import PurePosixPath

import pytest
from support import ROOT, Start
from support.manifests import K8S, Manifest, Manifests, directories, documents, files, kustomization

import echod
from echod.config.options import Config, load
from echod.probe.arguments import add_to, settings
from echod.probe.expectation import parse
from echod.watch.following import from_text

BASE = Manifests.of("base")
PROBE_JOB = K8S / "client/probe-job.yaml"
WATCH = K8S / "client/watch.yaml"
VERSIONS = {"tcp-echo-v1": "one", "tcp-echo-v2": "two"}
MESH_PORTS = {15008, 15020, 15021, 15090}
STEPS = {"all-v1": [100, 0], "80-20": [80, 20], "50-50": [50, 50], "all-v2": [0, 100]}
MIB = 2**20
AT_REST = 28 * MIB  # bytes, as the README has it


def container(name: str, manifests: Manifests = BASE) -> Manifest:
    (found,) = manifests.pods()[name]["spec"]["containers"]
    return found  # type: ignore[no-any-return]


def config(name: str) -> Config:
    """What the daemon makes of a pod's arguments and environment."""
    ports, prefix = container(name)["args"]
    labels = BASE.pods()[name]["metadata"]["labels"]
    environ = {}
    for variable in container(name)["env"]:
        path = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
        label = re.fullmatch(r"metadata\.labels\['(.+)'\]", path)
        environ[variable["name"]] = labels[label[1]] if label else variable["value"]
    return load({"ports": ports, "prefix": prefix}, environ)


@pytest.fixture(params=VERSIONS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_manifest_is_applied_by_some_directory() -> None:
    """Every file is part of some directory that can be applied, or is applied by itself."""
    used = {path for name in directories() for path in files(name)} | {PROBE_JOB, WATCH}
    used |= set(K8S.rglob("kustomization.yaml"))
    assert set(K8S.rglob("*.yaml")) == {path for path in used if path.is_relative_to(K8S)}


def test_the_image_name_is_set_in_one_file() -> None:
    """And it is this version's."""
    (image,) = kustomization("base")["images"]
    assert image == {"name": "echod", "newTag": echod.__version__}
    for pod in VERSIONS:
        assert container(pod)["image"] == "echod"
    mentions = [path for path in K8S.rglob("*.yaml") if "image: echod" in path.read_text()]
    assert {path.name for path in mentions} == {"v1.yaml", "v2.yaml", PROBE_JOB.name, WATCH.name}


def test_all_manifests_use_the_namespace_that_is_created() -> None:
    """A step that went to another would change nothing."""
    namespaces = {kustomization(name).get("namespace") for name in directories()} - {None}
    (made,) = Manifests.of("mesh").all("Namespace")
    assert namespaces == {made["metadata"]["name"]}


def test_the_versions_differ_in_version_and_prefix_alone() -> None:
    """One file is the other by a word or two."""
    first, second = ((K8S / "base" / f"{one}.yaml").read_text() for one in ("v1", "v2"))
    changed = re.sub(r"(?<!apps/)(?<!apiVersion: )v1", "v2", first).replace('"one"', '"two"')
    assert changed.splitlines()[1:] == second.splitlines()[1:]


def test_the_daemon_accepts_what_the_pods_give_it(name: str) -> None:
    """The reference's arguments, the label's version, and metrics at the usual port."""
    found = config(name)
    assert found.ports == (9000, 9001, 9002)
    assert found.prefix.decode() == VERSIONS[name]
    assert found.service_version == name.removeprefix("tcp-echo-")
    assert found.metrics_port == load({"ports": "1", "prefix": "x"}, {}).metrics_port


def test_labels_name_the_version_alike(name: str) -> None:
    """For selectors, for subsets and for Istio's telemetry."""
    deployment = BASE.one("Deployment", name)
    labels = BASE.pods()[name]["metadata"]["labels"]
    version = name.removeprefix("tcp-echo-")
    assert labels["version"] == labels["app.kubernetes.io/version"] == version
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert BASE.selected(deployment["spec"]["selector"]["matchLabels"]) == [name]


def test_the_service_has_the_names_and_ports_of_the_reference() -> None:
    """Both versions, its two ports under their names, and 9002 left out."""
    (service,) = BASE.all("Service")
    assert service["metadata"]["name"] == "tcp-echo"
    assert BASE.selected(service["spec"]["selector"]) == list(VERSIONS)
    ports = [(port["name"], port["port"]) for port in service["spec"]["ports"]]
    assert ports == [("tcp", 9000), ("tcp-other", 9001)]


def test_named_ports_are_ports_of_the_daemon(name: str) -> None:
    """Probes and services reach what listens."""
    found = config(name)
    assert {port["name"]: port["containerPort"] for port in container(name)["ports"]} == {
        "tcp": found.ports[0],
        "tcp-other": found.ports[1],
        "http-metrics": found.metrics_port,
    }


def test_probes_and_scrapes_find_their_pages(name: str, start: Start) -> None:
    """Asked of a daemon: readiness, liveness and metrics answer with 200."""
    one = start()
    annotations = BASE.pods()[name]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(config(name).metrics_port)
    assert annotations["prometheus.io/scrape"] == "true"
    probes = [container(name)[f"{kind}Probe"]["httpGet"] for kind in ("readiness", "liveness")]
    assert {probe["port"] for probe in probes} == {"http-metrics"}
    paths = [probe["path"] for probe in probes]
    assert paths == ["/readyz", "/livez"]
    for path in (*paths, annotations["prometheus.io/path"]):
        assert one.get(path)[0] == 200


def test_a_drain_fits_the_grace_period(name: str) -> None:
    """preStop, delay and drain, with two seconds for what lingers."""
    spec = BASE.pods()[name]["spec"]
    sleep = container(name)["lifecycle"]["preStop"]["sleep"]["seconds"]
    found = config(name)
    assert spec["terminationGracePeriodSeconds"] >= (
        sleep + found.drain_delay + found.drain_timeout + 2
    )


def test_a_stuck_process_is_killed_after_its_pre_stop(name: str) -> None:
    """Sooner than a drain would be, which a stuck process takes no part in."""
    spec, one = BASE.pods()[name]["spec"], container(name)
    grace = one["livenessProbe"]["terminationGracePeriodSeconds"]
    sleep = one["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert sleep < grace < spec["terminationGracePeriodSeconds"]


def test_pods_ask_for_a_native_sidecar() -> None:
    """It outlives a drain, and does not keep a Job from its end."""
    job, _ = documents(PROBE_JOB.read_text())
    templates = [*BASE.pods().values(), job["spec"]["template"]]
    assert len(templates) == 3
    for template in templates:
        annotations = template["metadata"]["annotations"]
        assert annotations["sidecar.istio.io/nativeSidecar"] == "true"


def test_memory_is_enough_for_full_buffers(name: str) -> None:
    """The limit is at least twice what the process and its buffers can take."""
    limit = container(name)["resources"]["limits"]["memory"]
    assert limit.endswith("Mi")
    assert int(limit[:-2]) * MIB >= 2 * (AT_REST + config(name).max_buffered_bytes)


def test_disruptions_leave_a_pod_of_each_version(name: str) -> None:
    """One at a time of several, chosen by each version's own labels."""
    budget = BASE.one("PodDisruptionBudget", name)["spec"]
    assert BASE.selected(budget["selector"]["matchLabels"]) == [name]
    assert budget["maxUnavailable"] == 1
    assert BASE.one("Deployment", name)["spec"]["replicas"] >= 2
    (spread,) = BASE.pods()[name]["spec"]["topologySpreadConstraints"]
    assert BASE.selected(spread["labelSelector"]["matchLabels"]) == [name]
    # Not those of the ReplicaSet that a rollout replaces.
    assert spread["matchLabelKeys"] == ["pod-template-hash"]


def test_network_policies_admit_what_is_needed_and_no_more() -> None:
    """Echo ports, metrics, and the mesh's own; to the client the mesh's own alone."""
    found = config("tcp-echo-v1")
    needed = {"base": {*found.ports, found.metrics_port, *MESH_PORTS}, "client": MESH_PORTS}
    for directory, ports in needed.items():
        manifests = Manifests.of(directory)
        (policy,) = manifests.all("NetworkPolicy")
        (rule,) = policy["spec"]["ingress"]
        selected = manifests.selected(policy["spec"]["podSelector"]["matchLabels"])
        assert selected == list(manifests.pods())
        assert ports == {
            number
            for port in rule["ports"]
            for number in range(port["port"], port.get("endPort", port["port"]) + 1)
        }


@pytest.mark.parametrize("step", STEPS)
def test_a_step_of_istio_shifts_gateway_and_mesh_alike(step: str) -> None:
    """Each route leads to a subset that exists, by the weights of the step's name."""
    setting = Manifests.of("istio", f"istio/{step}")
    (rule,) = setting.all("DestinationRule")
    subsets = {subset["name"]: subset["labels"] for subset in rule["spec"]["subsets"]}
    service = setting.one("Service", "tcp-echo")
    for subset, labels in subsets.items():
        assert setting.selected(service["spec"]["selector"] | labels) == [f"tcp-echo-{subset}"]
    (gateway,) = setting.all("Gateway")
    opened = {server["port"]["number"] for server in gateway["spec"]["servers"]}
    ports = {port["port"] for port in service["spec"]["ports"]}
    assert rule["spec"]["host"] == service["metadata"]["name"]
    ports_by_gateway = {}
    for route in setting.all("VirtualService"):
        (name,) = route["spec"]["gateways"]
        ports_by_gateway[name] = {
            match["port"] for tcp in route["spec"]["tcp"] for match in tcp["match"]
        }
        for tcp in route["spec"]["tcp"]:
            weights = dict.fromkeys(subsets, 0)
            for leg in tcp["route"]:
                to = leg["destination"]
                assert to["host"] == service["metadata"]["name"]
                assert to["port"]["number"] in ports
                assert name != "mesh" or [{"port": to["port"]["number"]}] == tcp["match"]
                weights[to["subset"]] = leg.get("weight", 100)
            assert list(weights.values()) == STEPS[step]
    assert ports_by_gateway == {gateway["metadata"]["name"]: opened, "mesh": ports}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_of_gateway_api_shifts_gateway_and_mesh_alike(step: str) -> None:
    """Each backend is a Service that selects one version, by the weights of the step's name."""
    setting = Manifests.of("gateway-api", f"gateway-api/{step}")
    (gateway,) = setting.all("Gateway")
    (listener,) = gateway["spec"]["listeners"]
    (route,) = setting.all("TCPRoute")
    at_gateway, in_mesh = route["spec"]["parentRefs"]
    assert at_gateway == {"name": gateway["metadata"]["name"], "sectionName": listener["name"]}
    assert listener["port"] == 31400
    assert (in_mesh["kind"], in_mesh["name"], in_mesh["port"]) == ("Service", "tcp-echo", 9000)
    weights = dict.fromkeys(VERSIONS, 0)
    (rule,) = route["spec"]["rules"]
    for backend in rule["backendRefs"]:
        service = setting.one("Service", backend["name"])
        assert setting.selected(service["spec"]["selector"]) == [backend["name"]]
        assert backend["port"] in [port["port"] for port in service["spec"]["ports"]]
        weights[backend["name"]] = backend.get("weight", 100)
    assert list(weights.values()) == STEPS[step]


def test_v1alpha2_routes_equal_those_of_v1() -> None:
    """v1alpha2 is v1 with another number."""
    for step in STEPS:
        older = kustomization(f"gateway-api/v1alpha2/{step}")
        assert older["resources"] == [f"../../{step}"]
        assert "gateway.networking.k8s.io/v1alpha2" in older["patches"][0]["patch"]


def test_a_vm_is_selected_like_a_pod_of_its_version() -> None:
    """By the Service, by a subset, and asked where the daemon answers."""
    (group,) = Manifests.of("vm").all("WorkloadGroup")
    setting = Manifests.of("istio", "vm")
    labels = group["spec"]["metadata"]["labels"]
    assert setting.one("Service", "tcp-echo")["spec"]["selector"].items() <= labels.items()
    subsets = setting.all("DestinationRule")[0]["spec"]["subsets"]
    assert {"version": labels["version"]} in [subset["labels"] for subset in subsets]
    assert labels["app.kubernetes.io/version"] == labels["version"]
    setting.one("ServiceAccount", group["spec"]["template"]["serviceAccount"])
    assert group["spec"]["template"]["ports"] == {
        port["name"]: port["port"] for port in setting.one("Service", "tcp-echo")["spec"]["ports"]
    }
    asked = group["spec"]["probe"]["httpGet"]
    assert (asked["port"], asked["path"]) == (config("tcp-echo-v2").metrics_port, "/readyz")
    assert asked["host"] == "127.0.0.1"
    settings = (ROOT / "systemd/etc/echod/echod.env").read_text()
    assert f"ECHOD_METRICS_PORT={asked['port']}" in settings
    assert f"ECHOD_METRICS_ADDRESS={asked['host']}" in settings


def test_the_monitor_scrapes_each_pod_once() -> None:
    """With a sidecar at the merged port, without one at ours: one rule keeps what one drops."""
    (monitor,) = Manifests.of("monitoring").all("PodMonitor")
    assert BASE.selected(monitor["spec"]["selector"]["matchLabels"]) == list(VERSIONS)
    merged, own = monitor["spec"]["podMetricsEndpoints"]
    annotations = BASE.pods()["tcp-echo-v1"]["metadata"]["annotations"]
    assert own["path"] == annotations["prometheus.io/path"]
    assert own["port"] in [port["name"] for port in container("tcp-echo-v1")["ports"]]
    keep, drop = merged["relabelings"][1], own["relabelings"][0]
    assert (keep["action"], drop["action"]) == ("keep", "drop")
    assert keep["sourceLabels"] == drop["sourceLabels"]
    assert keep["regex"] == drop["regex"] == merged["path"]
    for one in (merged, own):
        assert "honorLabels" not in one  # a pod would name its own job and instance
        renamed, dropped = one["metricRelabelings"]
        assert (renamed["sourceLabels"], renamed["targetLabel"]) == (
            ["exported_version"],
            "version",
        )
        assert (dropped["action"], dropped["regex"]) == ("labeldrop", "exported_version")


def test_the_probe_job_runs_once_and_ends_by_itself() -> None:
    """This version, against the Service's port, never tried again."""
    job, policy = documents(PROBE_JOB.read_text())
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    template = job["spec"]["template"]["spec"]
    assert (job["spec"]["backoffLimit"], template["restartPolicy"]) == (0, "Never")
    assert job["spec"]["activeDeadlineSeconds"] == 300
    (one,) = template["containers"]
    assert one["image"] == f"echod:{echod.__version__}"
    host, _, port = one["args"][1].partition(":")
    service = BASE.one("Service", host)
    assert int(port) in [found["port"] for found in service["spec"]["ports"]]
    parser = ArgumentParser()
    add_to(parser)
    asked = settings(parser.parse_args(one["args"][1:]))
    assert (asked.n, asked.duration, asked.wait) == (None, None, None)
    assert parse(asked.expect).shares == {"one": 0.8, "two": 0.2}


def test_the_watch_watches_what_its_file_expects() -> None:
    """This version, against the Service's port, by the options that it has; scraped once."""
    manifests = Manifests(documents(WATCH.read_text()))
    pod = manifests.pods()["watch"]
    (one,) = pod["spec"]["containers"]
    assert one["image"] == f"echod:{echod.__version__}"
    parser = ArgumentParser()
    add_to(parser)
    asked = settings(parser.parse_args(one["args"][1:]))
    service = BASE.one("Service", asked.host)
    assert asked.port in [found["port"] for found in service["spec"]["ports"]]
    (mount,), (volume,) = one["volumeMounts"], pod["spec"]["volumes"]
    assert asked.watch
    assert asked.expect_file
    mounted = PurePosixPath(asked.expect_file).relative_to(mount["mountPath"])
    data = manifests.one("ConfigMap", volume["configMap"]["name"])["data"][str(mounted)]
    assert from_text("expected", data.encode()).shares == {"one": 0.8, "two": 0.2}
    (port,) = one["ports"]
    assert port == {"name": "http-metrics", "containerPort": asked.metrics_port}
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(asked.metrics_port)
    (policy,) = manifests.all("NetworkPolicy")
    (rule,) = policy["spec"]["ingress"]
    admitted = {
        number
        for found in rule["ports"]
        for number in range(found["port"], found.get("endPort", found["port"]) + 1)
    }
    assert admitted == MESH_PORTS | {asked.metrics_port}
    (monitor,) = manifests.all("PodMonitor")
    (shipped,) = Manifests.of("monitoring").all("PodMonitor")
    assert monitor["spec"]["podMetricsEndpoints"] == shipped["spec"]["podMetricsEndpoints"]
    for selector in (monitor["spec"]["selector"], policy["spec"]["podSelector"]):
        assert manifests.selected(selector["matchLabels"]) == ["watch"]


def test_documents_apply_directories_that_exist() -> None:
    """A command typed from a page does not fail for it."""
    named = 0
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *K8S.rglob("*.md")]:
        for directory in re.findall(r"(?:-k|kustomize) k8s/([\w./-]+)", page.read_text()):
            named += 1
            assert directory.rstrip("/") in directories(), f"{page.name}: k8s/{directory}"
    assert named > 0
