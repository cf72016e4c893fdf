"""Where, when and with what a table was measured."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path


def machine(*packages: str) -> str:
    """Date, processor, cores, load, Python, and the versions of these packages, for the line above a table."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    installed = {package.metadata["Name"]: package.version for package in metadata.distributions()}
    versions = "".join(f", {name} {installed[name]}" for name in packages if name in installed)
    today = datetime.datetime.now(datetime.UTC).date()
    load = os.getloadavg()[0]
    return f"{today}; {model}, {os.cpu_count()} cores, load {load:.1f} at the start; Python {platform.python_version()}{versions}"
