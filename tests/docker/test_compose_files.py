"""The compose files say what they should, whether or not an engine is at hand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from services.rollout.__main__ import main as start_rollout
from services.rollout.settings import RolloutSettings
from services.trainer.settings import TrainerSettings
from services.verifier.__main__ import main as start_verifier
from services.verifier.settings import VerifierSettings
from shared.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE = str(Path(sys.executable).with_name("docker-compose"))


def config(*files: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`docker compose config` over these files, settings from `environment` alone."""
    named = [part for file in files or ("docker-compose.yml",) for part in ("-f", file)]
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(("DRIFT_", "OTEL_"))}
    command = [COMPOSE, "--env-file", os.devnull, *named, "--profile", "*", "config"]
    return subprocess.run(command, cwd=ROOT, env=surroundings | environment, capture_output=True, text=True)


def services(*files: str, **environment: str) -> dict[str, dict]:
    done = config(*files, **environment)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)["services"]


def published(found: dict[str, dict]) -> dict[str, list[tuple[str, int]]]:
    return {
        name: [(port["host_ip"], port["target"]) for port in service["ports"]]
        for name, service in found.items()
        if service.get("ports")
    }


@pytest.mark.parametrize("files", [["docker-compose.yml"], ["docker-compose.yml", "docker-compose.gpu.yml"]], ids=len)
def test_nothing_but_the_gateway_and_grafana_publishes_ports_and_only_on_loopback(files: list[str]) -> None:
    assert published(services(*files)) == {
        "gateway": [("127.0.0.1", 8000), ("127.0.0.1", 8001)],
        "grafana": [("127.0.0.1", 3000)],
    }


def test_the_services_know_where_they_are_published_and_refuse_without_keys() -> None:
    opened = services(DRIFT_PUBLISH_ADDRESS="0.0.0.0")
    assert published(opened)["gateway"] == [("0.0.0.0", 8000), ("0.0.0.0", 8001)]
    for name, start in (("verifier", start_verifier), ("rollout", start_rollout)):
        environment = opened[name]["environment"]
        assert environment["DRIFT_API_KEYS"] == ""
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit, match="Set DRIFT_API_KEYS"):
            for variable, value in environment.items():
                if value is not None:
                    patch.setenv(variable, value)
            start()


def test_what_operations_tells_to_set_reaches_its_container() -> None:
    named = set(re.findall(r"DRIFT_[A-Z_]+[A-Z]", (ROOT / "docs" / "operations.md").read_text()))
    made = {"DRIFT_RUNS_ROOT", "DRIFT_DATA_ROOT", "DRIFT_REDIS_URL", "DRIFT_TRAINER_METRICS"}  # by image and volumes
    for name, settings in (("verifier", VerifierSettings), ("rollout", RolloutSettings), ("trainer", TrainerSettings)):
        own = {f"DRIFT_{field.upper()}" for field in settings.model_fields.keys() - Settings.model_fields.keys()}
        wanted = dict.fromkeys(own & named - made, "7")
        assert wanted.items() <= services(**wanted)[name]["environment"].items()


@pytest.mark.parametrize("files", [["docker-compose.yml"], ["docker-compose.yml", "docker-compose.gpu.yml"]], ids=len)
def test_every_container_is_confined(files: list[str]) -> None:
    for name, service in services(*files).items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["pids_limit"]) > 0, name
        # vLLM's own image writes where it likes.
        assert service.get("read_only") or (name == "engine" and len(files) == 2), name


def test_redis_and_the_engine_are_reached_by_those_who_need_them_only() -> None:
    found, watchers = services(), {"prometheus", "traces"}
    on = {
        network: {name for name, service in found.items() if network in service.get("networks", {})}
        for network in ("store", "inference", "api")
    }
    assert on == {
        "store": {"redis", "rollout", "trainer", *watchers},
        "inference": {"engine", "rollout", *watchers},
        "api": {"gateway", "verifier", "rollout", *watchers},
    }
    networks = yaml.safe_load(config().stdout)["networks"]
    assert all(networks[name]["internal"] for name in on)


def test_the_gpu_files_ask_for_devices_and_take_the_cuda_packages() -> None:
    found = services("docker-compose.yml", "docker-compose.gpu.yml", DRIFT_MODEL="Qwen/Qwen2.5-3B-Instruct")
    for name in ("engine", "trainer"):
        [device] = found[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"], name
    assert found["engine"]["image"].startswith("vllm/vllm-openai:")
    assert "build" not in found["engine"]
    assert "/models/Qwen/Qwen2.5-3B-Instruct" in found["engine"]["command"]
    assert found["trainer"]["build"]["args"]["TRAINER_LOCK"] == "trainer-gpu"


def test_images_are_locked_to_the_versions_that_the_tests_run_with() -> None:
    whole = {lock: set((ROOT / f"requirements/{lock}.txt").read_text().split()) for lock in ("cpu", "gpu")}
    locks = sorted((ROOT / "requirements" / "images").glob("*.txt"))
    assert {lock.stem for lock in locks} == {"verifier", "rollout", "trainer", "trainer-gpu", "model", "engine-cpu"}
    for lock in locks:
        strays = set(lock.read_text().split()) - whole["gpu" if "gpu" in lock.stem else "cpu"]
        assert not strays, f"{lock.name} differs from the common lock: run `make lock`"


def test_a_shuffle_spools_to_a_disk_and_not_to_memory() -> None:
    rollout = services()["rollout"]
    on_disk = {volume["target"] for volume in rollout["volumes"] if not volume.get("read_only")}
    assert rollout["environment"]["TMPDIR"] in on_disk
