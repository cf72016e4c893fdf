"""The files in docker/ hold together. No engine builds them here; each name they use is looked up where it is defined."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from reelscribe.pipeline.config_files import load_config

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))
GPU = yaml.safe_load((ROOT / "docker" / "compose.gpu.yaml").read_text(encoding="utf-8"))
STAGES = re.findall(r"^FROM\s+(\S+)\s+AS\s+(\S+)$", DOCKERFILE, flags=re.MULTILINE)


def services() -> list[Any]:
    return [pytest.param(service, id=name) for name, service in COMPOSE["services"].items()]


def locked(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert all("--hash=sha256:" in entry for entry in re.split(r"\n(?=\S)", text.strip()))
    return dict(re.findall(r"^([a-z0-9-]+)(?:\[[\w,-]+\])?==([^\s;]+)", text, flags=re.MULTILINE))


def test_stages_are_made_of_stages() -> None:
    known: set[str] = set()
    for source, name in STAGES:
        assert source in known or source == "${PYTHON_IMAGE}"
        known.add(name)
    assert {"cpu", "gpu", "tracking"} <= known
    assert set(re.findall(r"--from=(\S+)", DOCKERFILE)) <= known


def test_copied_files_exist_and_are_sent_to_the_engine() -> None:
    sent = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")}
    copied = {name for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, flags=re.MULTILINE) for name in line.split()[:-1]}
    assert copied == sent
    assert all((ROOT / name).exists() for name in copied)


def test_images_that_users_run_do_not_run_as_root() -> None:
    bodies = re.split(r"^FROM .* AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)[1:]
    stages = dict(zip(bodies[::2], bodies[1::2], strict=True))
    for name in ("cpu", "gpu", "tracking"):
        assert "\nUSER reelscribe\n" in stages[name]


def test_installs_check_hashes() -> None:
    for command in re.findall(r"uv pip (?:sync|install)[^&\n]*", DOCKERFILE):
        assert "--require-hashes" in command or "--no-deps /tmp/dist/" in command, command


def test_the_tracking_server_has_the_versions_of_the_client() -> None:
    ours, server = locked("requirements.lock"), locked("docker/tracking.lock")
    assert server["mlflow"] == ours["mlflow"]
    assert "psycopg2-binary" in server
    assert {name: version for name, version in server.items() if name in ours and ours[name] != version} == {}


@pytest.mark.parametrize("service", services())
def test_a_service_is_reached_from_this_machine_only(service: dict[str, Any]) -> None:
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("service", services())
def test_a_service_refers_to_what_there_is(service: dict[str, Any]) -> None:
    if build := service.get("build"):
        assert (ROOT / "docker" / build["context"] / build["dockerfile"]).resolve() == ROOT / "docker" / "Dockerfile"
        assert build["target"] in {name for _, name in STAGES}
    for volume in service["volumes"]:
        source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")[0]
        assert source.startswith((".", "/")) or source in COMPOSE["volumes"]
    for name, how in service.get("depends_on", {}).items():
        assert how == {"condition": "service_healthy"}
        assert "healthcheck" in COMPOSE["services"][name]


def test_every_secret_is_asked_for() -> None:
    text = (ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8")
    example = (ROOT / "docker" / "env.example").read_text(encoding="utf-8")
    names = set(re.findall(r"\$\{(\w+)", text))
    assert names == set(re.findall(r"^(\w+)=", example, flags=re.MULTILINE))
    for name in ("POSTGRES_PASSWORD", "RAY_AUTH_TOKEN"):
        assert f"${{{name}:?" in text  # without it nothing starts
        assert f"\n{name}=\n" in f"\n{example}"  # no secret comes with the project


def test_the_gpu_file_changes_services_that_there_are() -> None:
    assert set(GPU["services"]) <= set(COMPOSE["services"])
    assert {service["build"]["target"] for service in GPU["services"].values()} == {"gpu"}


def test_the_kubernetes_job_trains_on_what_it_mounts() -> None:
    spec = yaml.safe_load((ROOT / "docker" / "rayjob.yaml").read_text(encoding="utf-8"))["spec"]
    program, verb, config, *overrides = spec["entrypoint"].split()
    assert (program, verb) == ("reelscribe", "train")
    settings = load_config(config, overrides)
    cluster = spec["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    for group in (cluster["headGroupSpec"], workers):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounted.values()) == {volume["name"] for volume in pod["volumes"]}
        assert settings.output in mounted
        assert str(Path(settings.data.manifest).parent) in mounted
        assert container["image"] in {service["image"] for service in COMPOSE["services"].values() if "image" in service}
    assert settings.training.workers <= workers["replicas"] * int(container["resources"]["limits"]["cpu"])
    assert cluster["authOptions"] == {"mode": "token"}


def options(command: list[str]) -> set[str]:
    return {word.split("=")[0] for word in command if word.startswith("--")}


@pytest.mark.parametrize(
    ("module", "verb", "commands"),
    [
        ("mlflow.cli", "server", [COMPOSE["services"]["tracking"]["command"]]),
        ("ray.scripts.scripts", "start", [COMPOSE["services"][name]["command"] for name in ("ray-head", "ray-worker")]),
        ("ray.scripts.scripts", "health-check", [COMPOSE["services"]["ray-head"]["healthcheck"]["test"][2:]]),
    ],
)
def test_services_give_their_programs_options_that_exist(module: str, verb: str, commands: list[list[str]]) -> None:
    code = f"import {module}; print(*(o for p in {module}.cli.commands['{verb}'].params for o in p.opts))"
    known = set(subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True).stdout.split())
    for command in commands:
        assert command[0] == verb
        assert options(command) <= known
