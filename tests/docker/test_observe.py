"""Dashboards and alerts speak of metrics that exist, and the rules do what their unit tests say."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml
from fastapi import FastAPI
from prometheus_client import REGISTRY, generate_latest

import services.trainer.ingest
import services.trainer.metrics
from services.rollout.app import create_app
from services.rollout.settings import RolloutSettings
from services.verifier.app import create_app as create_verifier

ROOT = Path(__file__).parents[2]
OBSERVE = ROOT / "deploy" / "observe"
BUILT_IN = {"up", "ALERTS", "process_resident_memory_bytes"}
VLLM = {
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:prefix_cache_hits_total",
    "vllm:prefix_cache_queries_total",
}
"""vLLM's own; `test_the_engines_metrics_are_those_of_vllm` asks vLLM."""


def expressions() -> list[str]:
    rules = yaml.safe_load((OBSERVE / "alerts.yml").read_text())["groups"][0]["rules"]
    dashboard = json.loads((OBSERVE / "grafana" / "dashboards" / "drift.json").read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [rule["expr"] for rule in rules] + shown


def metrics_named(expression: str) -> set[str]:
    bare = re.sub(r'"[^"]*"', "", expression)
    return set(re.findall(r"\b(?:drift_|vllm:|process_)\w+|\bup\b|\bALERTS\b", bare))


def scraped_names(exposition: str) -> set[str]:
    """The names of an exposition's samples, of metrics that have none yet, too."""
    suffixes = {"histogram": ["_bucket", "_sum", "_count"]}
    kinds = re.findall(r"^# TYPE (\S+) (\S+)$", exposition, re.MULTILINE)
    return {f"{name}{suffix}" for name, kind in kinds for suffix in suffixes.get(kind, [""])}


async def scrape(app: FastAPI) -> set[str]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        return scraped_names((await client.get("/metrics")).raise_for_status().text)


async def test_every_metric_of_dashboards_and_alerts_exists(tmp_path: Path) -> None:
    settings = RolloutSettings(_env_file=None, runs_root=tmp_path)  # pyright: ignore[reportCallIssue]
    assert services.trainer.ingest and services.trainer.metrics  # their metrics are in the process's registry
    trainer = scraped_names(generate_latest(REGISTRY).decode())
    existing = trainer | await scrape(create_verifier()) | await scrape(create_app(settings))
    named = set().union(*map(metrics_named, expressions()))
    assert named - existing - BUILT_IN - VLLM == set()
    assert len(named) > 20


def test_the_engines_metrics_are_those_of_vllm() -> None:
    vllm = pytest.importorskip("vllm", reason="vLLM is not installed")
    source = (Path(vllm.__file__).parent / "v1" / "metrics" / "loggers.py").read_text()
    for name in VLLM:
        assert f'name="{name.removesuffix("_total")}"' in source


def test_every_alert_has_a_runbook_and_a_unit_test() -> None:
    alerts = [rule["alert"] for rule in yaml.safe_load((OBSERVE / "alerts.yml").read_text())["groups"][0]["rules"]]
    runbook = (ROOT / "docs" / "operations.md").read_text()
    tested = (OBSERVE / "alerts_test.yml").read_text()
    for alert in alerts:
        assert f"\n#### {alert}\n" in runbook
        assert f"alertname: {alert}" in tested


@pytest.fixture(scope="module")
def promtool(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Prometheus' own tool: the machine's, else from Debian's package, else the test is skipped."""
    if found := shutil.which("promtool"):
        return found
    folder = tmp_path_factory.mktemp("promtool")
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        pytest.skip("promtool is not installed, and this is no Debian")
    fetched = subprocess.run(["apt-get", "download", "prometheus"], cwd=folder, capture_output=True, text=True)
    packages = list(folder.glob("*.deb"))
    if fetched.returncode != 0 or not packages:
        pytest.skip(f"promtool is not installed and cannot be had: {fetched.stderr.strip().splitlines()[-1:]}")
    subprocess.run(["dpkg", "-x", packages[0], folder], check=True)
    return str(folder / "usr" / "bin" / "promtool")


@pytest.mark.parametrize("command", [["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]])
def test_prometheus_accepts_the_configuration_and_the_rules_pass_their_unit_tests(
    promtool: str, command: list[str]
) -> None:
    done = subprocess.run([promtool, *command], cwd=OBSERVE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
