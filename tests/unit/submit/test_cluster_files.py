"""The files under cluster/ are what their readers expect: parsed and looked at, not run."""

import importlib.metadata
import json
import re
import subprocess
import tomllib
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

ROOT = Path(__file__).resolve().parents[3]
CLUSTER = ROOT / "cluster"


def read(name: str):
    return yaml.safe_load((CLUSTER / name).read_text())


def pod_groups(spec: dict) -> list[dict]:
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


@pytest.mark.parametrize("path", sorted(CLUSTER.rglob("*.yaml")), ids=lambda path: path.name)
def test_cluster_yaml_parses_to_a_mapping(path):
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_ray_cluster_fits_the_schema_of_the_launcher():
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    config = read("ray-cluster.yaml")
    jsonschema.validate(config, schema)
    assert config["head_node_type"] in config["available_node_types"]
    assert all("RAY_AUTH_MODE=token" in config[f"{kind}_start_ray_commands"][-1] for kind in ("head", "worker"))


def test_raycluster_asks_for_a_token_and_has_a_worker_group_with_gpus():
    resource = read("kuberay/raycluster.yaml")
    assert (resource["apiVersion"], resource["kind"]) == ("ray.io/v1", "RayCluster")
    assert resource["spec"]["authOptions"] == {"mode": "token"}
    (group,) = resource["spec"]["workerGroupSpecs"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"


def test_rayjob_ends_with_its_study_and_retries_in_a_new_cluster():
    resource = read("kuberay/rayjob.yaml")
    spec = resource["spec"]
    assert (resource["kind"], spec["submissionMode"]) == ("RayJob", "K8sJobMode")
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["submitterConfig"]["backoffLimit"] == 0 < spec["backoffLimit"]
    assert {"ttlSecondsAfterFinished", "activeDeadlineSeconds", "rayClusterSpec"} <= spec.keys()
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert "python -m vqscale run" in spec["entrypoint"]


def test_kuberay_files_name_the_installed_ray_and_one_image():
    specs = [read("kuberay/raycluster.yaml")["spec"], read("kuberay/rayjob.yaml")["spec"]["rayClusterSpec"]]
    assert {spec["rayVersion"] for spec in specs} == {importlib.metadata.version("ray")}
    containers = [
        box for spec in specs for group in pod_groups(spec) for box in group["template"]["spec"]["containers"]
    ]
    assert len({box["image"] for box in containers}) == 1


def test_mlflow_compose_listens_on_loopback_alone_and_holds_no_password():
    compose = read("mlflow/compose.yaml")
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    text = (CLUSTER / "mlflow/compose.yaml").read_text()
    named = set(re.findall(r"\$\{(\w+)", text))
    example = dict(
        line.split("=", 1) for line in (CLUSTER / "mlflow/example.env").read_text().splitlines() if "=" in line
    )
    assert named == set(example)
    assert not any(example[name] for name in ("POSTGRES_PASSWORD", "S3_USER", "S3_PASSWORD"))
    assert f"mlflow:v{importlib.metadata.version('mlflow')}" in text


def test_slurm_script_is_valid_bash():
    done = subprocess.run(["bash", "-n", str(CLUSTER / "slurm/vqscale.sbatch")], capture_output=True, timeout=10)
    assert (done.returncode, done.stderr) == (0, b"")


def test_dockerfile_copies_what_the_build_needs_and_runs_as_an_ordinary_user():
    text = (CLUSTER / "docker/Dockerfile").read_text()
    copied = {word for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE) for word in line.split()[:-1]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {path.split("/")[0] for path in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    assert packages | {"pyproject.toml", "constraints.txt", project["project"]["readme"]} <= copied
    assert all((ROOT / name).exists() for name in copied)
    assert re.search(r"^USER (?!root)", text, re.MULTILINE)
