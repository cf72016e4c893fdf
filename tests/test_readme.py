"""What the README, the help texts and the other pages tell people to type can be typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from reelscribe.pipeline.cli import app
from reelscribe.pipeline.config_files import load_config, load_variants
from reelscribe.pipeline.manifest import COLUMNS, read_manifest
from reelscribe.pipeline.tracking.query_language import parse_query

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "docker/compose.yaml", "docker/Dockerfile", "Makefile")]
README = PAGES[0].read_text(encoding="utf-8")


def commands() -> Iterator[str]:
    """Every ``reelscribe VERB ...`` in a shell block, a comment of a container file, a config's head, or an example of the help."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL) if page.suffix == ".md" else [text]
        for line in "\n".join(blocks).splitlines():
            found = re.search(
                r"(?:^#?\s*|&& |ray-head |reelscribe:cpu )(?:reelscribe |(?<=reelscribe:cpu ))([a-z].*)$", line.split("    #")[0]
            )
            if found:
                yield found[1]
    for config in (ROOT / "configs").glob("*.yaml"):
        yield from re.findall(r"^#\s+reelscribe (.*)$", config.read_text(encoding="utf-8"), flags=re.MULTILINE)
    yield from examples(typer.main.get_command(app))


def examples(command: object) -> Iterator[str]:
    epilog = getattr(command, "epilog", None)
    if epilog:
        yield epilog.removeprefix("Example: reelscribe").strip()
    for below in getattr(command, "commands", {}).values():
        yield from examples(below)


def parse(words: list[str]) -> tuple[list[str], dict[str, object]]:
    """The verb and its parameters as the command line understands them; it exits where it would refuse."""
    command, verb = typer.main.get_command(app), []
    while hasattr(command, "commands"):
        verb.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    return verb, dict(command.make_context(" ".join(verb), words).params)


COMMANDS = sorted(set(commands()))


def test_commands_are_found() -> None:
    verbs = {command.split()[0] for command in COMMANDS}
    assert {"train", "compare", "evaluate", "label", "predict", "doctor", "demo", "registry"} <= verbs


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    verb, given = parse(shlex.split(command))
    if verb == ["train"]:
        config, overrides = str(given["config"]), given["overrides"]
        monkeypatch.chdir(ROOT)
        assert isinstance(overrides, list | tuple)
        load_config("gestures" if config == "doors.yaml" else config, list(overrides))  # doors.yaml is the reader's copy of it
    if verb == ["compare"]:
        load_variants(str(given["config"]), list(given["overrides"]))  # type: ignore[call-overload]
    if verb == ["registry", "query"]:
        parse_query(str(given["text"]))


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for page in PAGES:
        if page.suffix == ".md":
            assert set(re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)) <= targets


def test_links_lead_somewhere() -> None:
    for page in PAGES[:2]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_label_file_of_the_readme_is_read(tmp_path: Path) -> None:
    (example,) = re.findall(r"```csv\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "labels.csv").write_text(example, encoding="utf-8")
    assert read_manifest(str(tmp_path / "labels.csv"), require_labels=True).num_rows == 3


def test_the_readme_names_columns_as_they_are_read() -> None:
    rows = re.findall(r"^\| (`.*?) \|.*\| (`.*`) \|$", README, flags=re.MULTILINE)
    names = {name for row in rows for cell in row for name in re.findall(r"`(\w+)`", cell)}
    assert {"path", "label", "split"} <= names <= {name for allowed in COLUMNS.values() for name in allowed}


def test_container_files_are_yaml() -> None:
    for file in (ROOT / "docker").glob("*.yaml"):
        assert isinstance(yaml.safe_load(file.read_text(encoding="utf-8")), dict)


def test_the_stream_of_the_readme_runs_and_says_what_the_whole_clip_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from reelscribe.pipeline.bundle import BundleSpec, new_recognizer, save_bundle
    from reelscribe.pipeline.config import ModelConfig, TransformConfig
    from reelscribe.pipeline.sampling import UniformSampling

    (example,) = (block for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL) if "model.step" in block)
    shape = ModelConfig(encoder="tiny", weights="none", stride=8), TransformConfig(height=16, width=16)
    model = new_recognizer(*shape, num_classes=2).eval()
    spec = BundleSpec(name="door", labels=("open", "close"), model=shape[0], transform=shape[1], sampling=UniformSampling())
    save_bundle(tmp_path / "model", spec=spec, state=model.state_dict(), card="")
    clip = torch.randint(0, 256, (1, 5, 3, 16, 16), dtype=torch.uint8)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"folder": tmp_path / "model", "camera": clip.unbind(1)}
    exec(example, names)
    with torch.inference_mode():
        torch.testing.assert_close(names["logits"], model(clip, torch.tensor([5])), atol=1e-5, rtol=0)
        more, _ = model.step(clip[:, 0], names["state"])
        whole = model(torch.cat((clip, clip[:, :1]), 1), torch.tensor([6]))
    torch.testing.assert_close(more, whole, atol=1e-5, rtol=0)
