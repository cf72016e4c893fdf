"""The runtimes by name, and why one cannot be used here. Imports none of them."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Literal, get_args

from reelscribe.pipeline.config import usable_cores
from reelscribe.pipeline.errors import UsageError

GraphRuntime = Literal["openvino", "openvino-bf16", "openvino-int8", "onnxruntime"]  # these run an exported graph on the CPU
Runtime = Literal["torch", "torch-compile"] | GraphRuntime  # torch-compile is compiled, in bf16, on a GPU
RuntimeChoice = Literal["auto"] | Runtime

GRAPH_RUNTIMES: tuple[GraphRuntime, ...] = get_args(GraphRuntime)
_PACKAGES: dict[GraphRuntime, tuple[str, ...]] = {
    "openvino": ("openvino",),
    "openvino-bf16": ("openvino",),
    "openvino-int8": ("openvino", "nncf"),
    "onnxruntime": ("onnxruntime",),
}
_EXTRA = {"openvino": "runtimes", "onnxruntime": "runtimes", "nncf": "int8"}


def refusal(runtime: GraphRuntime) -> str | None:
    """Why this machine cannot run graphs so, or None. A package that is missing is named with the extra that brings it."""
    for package in _PACKAGES[runtime]:
        if util.find_spec(package) is None:
            return f"the package {package} is not installed; pip install 'reelscribe[{_EXTRA[package]}]'"
    if runtime == "openvino-bf16" and not _processor_has_bf16():
        return "this processor has no bf16 arithmetic (avx512_bf16 or amx_bf16)"
    return None


def require_usable(runtime: Runtime, device: str) -> None:
    """Raises UsageError where a runtime cannot be used here, or not on this device."""
    if runtime in GRAPH_RUNTIMES:
        if device not in ("auto", "cpu"):
            raise UsageError(f"runtime '{runtime}' runs on the CPU, not on '{device}'; leave --device out, or take --runtime torch")
        if reason := refusal(runtime):
            raise UsageError(f"runtime '{runtime}': {reason}")


def gpus() -> list[str]:
    """The driver's files of NVIDIA's GPUs; whether torch can use one, it says itself."""
    return sorted(str(file) for file in Path("/dev").glob("nvidia[0-9]*"))


@cache
def machine() -> str:
    """All that decides how fast a runtime is here, and how it rounds: processor, cores and versions."""
    versions = [f"{name} {_version(name)}" for name in ("torch", *_EXTRA)]
    return "\n".join([platform.platform(), *sorted(_cpu_facts()), *gpus(), f"{usable_cores()} cores", *versions])


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def _processor_has_bf16() -> bool:
    """By what Linux says of it; elsewhere by its kind."""
    facts = " ".join(_cpu_facts()).split()
    return any(flag in facts for flag in ("avx512_bf16", "amx_bf16", "bf16", "svebf16"))


@cache
def _cpu_facts() -> frozenset[str]:
    """Model and features of the first processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset({platform.processor()})
    wanted = ("model name", "flags", "Features")
    return frozenset(line for line in text.partition("\n\n")[0].splitlines() if line.startswith(wanted))
