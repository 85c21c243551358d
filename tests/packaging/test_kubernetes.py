"""deploy/kubernetes: valid for Kubernetes, and what it says agrees with the code."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

import paidup
from paidup.runtime.metrics import Metrics
from paidup.runtime.secret_files import FROM_FILES
from paidup.settings import NAMES
from tests.structure.test_deploying import COMMANDS, STOP_S, default_of
from tests.support.processes import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
VERSIONS = ("1.30", "1.34", "1.37")
"""The first has the preStop hook `sleep`."""
SECRETS = Path("/run/secrets/paidup")


def documents() -> list[dict[str, Any]]:
    found = [each for path in sorted(FOLDER.glob("*.yaml")) for each in yaml.safe_load_all(path.read_text())]
    return [each for each in found if each["kind"] != "Kustomization"]  # kustomize's own, not the cluster's


def one(kind: str, component: str = "") -> dict[str, Any]:
    found = [each for each in documents() if each["kind"] == kind]
    if component:
        found = [each for each in found if each["metadata"]["name"] == f"paidup-{component}"]
    assert len(found) == 1
    return found[0]


def pods() -> Iterator[dict[str, Any]]:
    for each in documents():
        if "template" in each.get("spec", {}):
            yield each["spec"]["template"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid(version: str) -> None:
    """Against the schemas of Kubernetes, which allow no unknown field."""
    assert len(documents()) >= 8
    for each in documents():
        kubernetes_validate.validate(each, version, strict=True)


def test_the_validator_finds_a_misspelt_field() -> None:
    broken = copy.deepcopy(one("Deployment", "server"))
    broken["spec"]["template"]["spec"]["terminationGracePeriod"] = 50
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[0], strict=True)


def test_kustomize_names_files_that_exist() -> None:
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    given = {*listed["resources"], "migrate.yaml", "kustomization.yaml"}
    assert given == {path.name for path in FOLDER.glob("*.yaml")}
    assert [generated["name"] for generated in listed["configMapGenerator"]] == ["paidup-plans"]


def test_the_settings_exist_and_hold_no_secret() -> None:
    given = one("ConfigMap")["data"]
    files = {name for name in given if name.endswith("_FILE") and name != "PLANS_FILE"}
    assert set(given) - files <= set(NAMES)
    assert files <= {f"{name}_FILE" for name in FROM_FILES}
    assert {Path(given[name]).parent for name in files} == {SECRETS}
    assert given["PORT"] == str(default_of("PORT"))
    required = {"SECRET_KEY", "STRIPE_SECRET_KEY", "STRIPE_PUBLISHABLE_KEY", "STRIPE_WEBHOOK_SECRET"}
    assert required <= {name.removesuffix("_FILE") for name in given}


def test_each_pod_runs_a_command_without_privileges() -> None:
    """Nothing is root or writable but /tmp; the token of the cluster's API is not mounted."""
    commands = []
    for pod in pods():
        spec = pod["spec"]
        (container,) = spec["containers"]
        commands += container["args"]
        assert container["image"].endswith(f"/paidup:{paidup.__version__}")
        assert container["envFrom"] == [{"configMapRef": {"name": one("ConfigMap")["metadata"]["name"]}}]
        assert spec["automountServiceAccountToken"] is False
        assert (spec["securityContext"]["runAsNonRoot"], spec["securityContext"]["runAsUser"]) == (
            True,
            10001,
        )
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        mounted = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert set(mounted) == {volume["name"] for volume in spec["volumes"]}
        assert Path(mounted["secrets"]["mountPath"]) == SECRETS
        if container["args"] == ["migrate"]:  # it runs before kustomize has made the plans' config map
            assert container["env"] == [{"name": "PLANS_FILE", "value": ""}]
        else:
            plans = Path(mounted["plans"]["mountPath"], "plans.toml")
            assert Path(one("ConfigMap")["data"]["PLANS_FILE"]) == plans
        assert {name for name, mount in mounted.items() if not mount.get("readOnly")} == {"tmp"}
    assert sorted(commands) == ["migrate", "serve", "work"]
    assert set(commands) <= COMMANDS


def test_a_server_is_probed_and_drained() -> None:
    spec = one("Deployment", "server")["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    paths = {
        name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")
    }
    assert paths == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
    probe = container["readinessProbe"]
    pause_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pause_s >= probe["periodSeconds"] * probe["failureThreshold"]
    assert pod["terminationGracePeriodSeconds"] > pause_s + STOP_S
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert container["ports"][0]["containerPort"] == default_of("PORT")
    assert one("Deployment", "worker")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > STOP_S


def test_what_selects_pods_selects_the_servers() -> None:
    labels = one("Deployment", "server")["spec"]["template"]["metadata"]["labels"]
    assert one("Service")["spec"]["selector"] == labels
    budget = one("PodDisruptionBudget")["spec"]
    assert budget["selector"]["matchLabels"] == labels
    scaler = one("HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == one("Deployment", "server")["metadata"]["name"]
    assert "replicas" not in one("Deployment", "server")["spec"], "the autoscaler's would be overwritten"
    assert scaler["minReplicas"] > budget["minAvailable"]


def test_the_autoscaler_follows_open_sockets() -> None:
    scaled = one("HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]
    families = {family.name for family in Metrics().registry.collect()}
    assert scaled["metric"]["name"] in families
    assert int(scaled["target"]["averageValue"]) <= default_of("MAX_SOCKETS") / 2


def test_the_ingress_publishes_what_customers_and_stripe_need() -> None:
    ingress = one("Ingress")
    (rule,) = ingress["spec"]["rules"]
    assert {path["path"]: path["pathType"] for path in rule["http"]["paths"]} == {
        "/api/": "Prefix",
        "/ws/": "Prefix",
        "/webhooks/stripe": "Exact",
        "/activate": "Exact",
        "/activate.js": "Exact",
        "/sdk/": "Prefix",
        "/sdk.json": "Exact",
    }
    settings = {name.rpartition("/")[2]: value for name, value in ingress["metadata"]["annotations"].items()}
    for name in ("proxy-read-timeout", "proxy-send-timeout"):
        assert int(settings[name]) > 2 * default_of("HEARTBEAT_S")
    assert int(settings["proxy-body-size"].removesuffix("m")) * 1024 * 1024 > default_of("WEBHOOK_MAX_BYTES")
