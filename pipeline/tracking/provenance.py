"""Where a run came from: the code, the command, the machine's software."""

from __future__ import annotations

import getpass
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from reelscribe.pipeline.tracking.uri import redact

_SHOWN = ("reelscribe", "torch", "torchvision", "timm", "ray", "mlflow", "numpy", "av", "decord", "opencv-python-headless")


@dataclass(frozen=True, kw_only=True)
class GitState:
    """The commit that is checked out, and whether files differ from it."""

    commit: str
    dirty: bool


def git_state(folder: Path) -> GitState | None:
    """The state of the repository that ``folder`` lies in; None outside of one, without git, or before the first commit."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return GitState(commit=commit, dirty=bool(_git(folder, "status", "--porcelain")))
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True, timeout=20)
    return done.stdout.strip()


def repeat_command() -> str:
    """The command line of this process, quoted for a shell, passwords in URLs left out."""
    module = getattr(sys.modules["__main__"], "__spec__", None)  # set where Python was started with -m
    program = f"python -m {module.name.removesuffix('.__main__')}" if module else shlex.quote(Path(sys.argv[0]).name or "python")
    return redact(" ".join([program, *(shlex.quote(argument) for argument in sys.argv[1:])]))


def environment_lock() -> str:
    """Every installed distribution with its version, one a line as pip writes it."""
    found = {dist.metadata["Name"]: dist.version for dist in metadata.distributions() if dist.metadata["Name"]}
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items(), key=lambda item: item[0].lower()))


def run_tags(*, seed: int | None) -> dict[str, str]:
    """Tags that say how to repeat a run; the ``mlflow.*`` ones are shown by MLflow's own pages."""
    command = repeat_command()
    tags = {
        "mlflow.user": user_name(),
        "mlflow.source.name": command,
        "mlflow.source.type": "LOCAL",
        "reelscribe.command": command,
        "reelscribe.platform": platform.platform(),
        "reelscribe.version.python": platform.python_version(),
    }
    for name in _SHOWN:
        try:
            tags[f"reelscribe.version.{name}"] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if state := git_state(Path.cwd()):
        tags |= {"mlflow.source.git.commit": state.commit, "reelscribe.git_dirty": str(state.dirty).lower()}
    if seed is not None:
        tags["reelscribe.seed"] = str(seed)
    return tags


def user_name() -> str:
    """The login name; a container may give its user none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
