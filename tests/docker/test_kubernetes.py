"""The Kubernetes documents are what Kubernetes takes, and refer to what is there."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
VERSION = "1.34"
Document = dict[str, Any]


def documents() -> Iterator[tuple[Path, Document]]:
    for file in sorted(FOLDER.glob("**/*.yaml")):
        if file.name != "kustomization.yaml":
            for document in yaml.safe_load_all(file.read_text()):
                yield file, document


def of_kind(*kinds: str) -> list[Document]:
    return [document for _, document in documents() if document["kind"] in kinds]


def pod_templates() -> list[Document]:
    """What runs: the pod template of every workload."""
    plain = [each["spec"]["template"] for each in of_kind("Deployment", "StatefulSet", "Job")]
    trainers = [each["spec"]["pytorchReplicaSpecs"]["Worker"]["template"] for each in of_kind("PyTorchJob")]
    return plain + trainers


def names(kind: str) -> set[str]:
    return {each["metadata"]["name"] for each in of_kind(kind)}


@pytest.mark.parametrize(
    ("file", "document"),
    [pytest.param(*each, id=f"{each[1]['kind']}-{each[1]['metadata']['name']}") for each in documents()],
)
def test_each_document_keeps_kubernetes_own_schema_strictly(file: Path, document: Document) -> None:
    if document["kind"] == "PyTorchJob":  # an extension: its pod template is what Kubernetes knows of it
        template = document["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
        document = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
    kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.parametrize(
    "folder", sorted(file.parent for file in FOLDER.glob("**/kustomization.yaml")), ids=lambda at: at.name
)
def test_what_kustomize_renders_is_whole_and_keeps_the_schema(folder: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not at hand: nothing renders the kustomizations")
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rendered = list(yaml.safe_load_all(done.stdout))
    written = [
        (file, each) for file, each in documents() if file.is_relative_to(FOLDER / "base") or file.parent == folder
    ]
    assert {(each["kind"], each["metadata"]["name"]) for each in rendered} == {
        (each["kind"], each["metadata"]["name"]) for _, each in written
    }
    for each in rendered:
        assert each["kind"] == "Namespace" or each["metadata"]["namespace"] == "drift"
        assert each["metadata"]["labels"]["app.kubernetes.io/part-of"] == "drift"
        if each["kind"] != "PyTorchJob":
            kubernetes_validate.validate(each, VERSION, strict=True)


def test_a_misspelt_field_would_be_noticed() -> None:
    [document] = [each for each in of_kind("Deployment") if each["metadata"]["name"] == "verifier"]
    document["spec"]["template"]["spec"]["containers"][0]["redinessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSION, strict=True)


def test_every_file_is_part_of_its_kustomization_and_nothing_else_is() -> None:
    for kustomization in FOLDER.glob("**/kustomization.yaml"):
        listed = set(yaml.safe_load(kustomization.read_text())["resources"]) - {"../../base"}
        assert listed == {file.name for file in kustomization.parent.glob("*.yaml")} - {kustomization.name}


def test_references_lead_somewhere() -> None:
    labels = [template["metadata"]["labels"] for template in pod_templates()]
    for each in of_kind("Service"):
        assert each["spec"]["selector"] in [{key: one[key] for key in each["spec"]["selector"]} for one in labels]
    for each in of_kind("HorizontalPodAutoscaler"):
        assert each["spec"]["scaleTargetRef"]["name"] in names("Deployment")
    assert names("PodDisruptionBudget") == names("Deployment") == names("HorizontalPodAutoscaler")
    for template in pod_templates():
        spec = template["spec"]
        for volume in spec["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                assert claim["claimName"] in names("PersistentVolumeClaim")
            if secret := volume.get("secret"):
                assert secret["secretName"] == "drift-access"
        for container in spec["containers"]:
            volumes = {volume["name"] for volume in spec["volumes"]} | {"data"}
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            for source in container.get("envFrom", []):
                assert source["configMapRef"]["name"] in names("ConfigMap")


def test_pods_keep_the_restricted_standard_and_gpus_are_chosen() -> None:
    for template in pod_templates():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            if "nvidia.com/gpu" in container["resources"]["limits"]:
                assert "nvidia.com/gpu.present" in spec["nodeSelector"]


def test_every_pod_has_a_network_policy_of_its_own_beside_the_one_that_forbids_all() -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind("NetworkPolicy")}
    assert policies["nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    selected = [each["podSelector"].get("matchLabels") for each in policies.values()]
    for template in pod_templates():
        assert {"app.kubernetes.io/name": template["metadata"]["labels"]["app.kubernetes.io/name"]} in selected
    [engine] = policies["engine"]["ingress"]
    assert engine["from"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "rollout"}}}]


def test_the_batch_script_is_valid_bash_and_names_what_is_missing() -> None:
    script = ROOT / "deploy" / "slurm" / "trainer.sbatch"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    refused = subprocess.run(["bash", script], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "DRIFT_RUNS_ROOT: name the shared folder of runs" in refused.stderr
