"""The config's schema: what comes with the package is right, and what is wrong is named with its key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from reelscribe.pipeline.config import AugmentationConfig, Config
from reelscribe.pipeline.config_files import load_config, load_variants
from reelscribe.pipeline.errors import ConfigError
from reelscribe.pipeline.sampling import DenseSampling, RateSampling, UniformSampling

FILES = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))
CONFIGS = [file for file in FILES if file.stem != "gate"]  # what a promotion asks, no training


def write(folder: Path, text: str) -> str:
    file = folder / "run.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


@pytest.fixture
def small(tmp_path: Path) -> str:
    return write(tmp_path, "name: small\ndata:\n  manifest: labels.csv\n")


def refused(path: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, list(overrides))
    return str(caught.value)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_configs_that_come_with_the_package(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each loads by path and, from any folder, by name; and its own name is the file's."""
    by_path = load_config(str(file))
    assert by_path.name == file.stem
    monkeypatch.chdir(tmp_path)
    assert load_config(file.stem) == by_path


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_configs_read_the_same_in_any_yaml_reader(file: Path) -> None:
    """No value means one thing to YAML 1.1 and another to us, as 1e-3 and off would."""

    def compare(raw: object, checked: object, where: str) -> None:
        if isinstance(raw, dict):
            assert isinstance(checked, BaseModel | dict)
            for key, value in raw.items():
                compare(value, checked[key] if isinstance(checked, dict) else getattr(checked, key), f"{where}.{key}")
        elif isinstance(raw, list):
            assert isinstance(checked, list | tuple)
            for i, (one, other) in enumerate(zip(raw, checked, strict=True)):
                compare(one, other, f"{where}[{i}]")
        elif isinstance(raw, str) and not isinstance(checked, str):
            assert float(raw) == checked, where
        else:
            assert raw == checked, where

    compare(yaml.safe_load(file.read_text(encoding="utf-8")), load_config(str(file)), file.stem)


def test_there_are_configs() -> None:
    assert {"demo", "gestures"} <= {file.stem for file in CONFIGS}


def test_what_is_not_said_has_a_default(small: str) -> None:
    config = load_config(small)
    assert config == Config.model_validate({"name": "small", "data": {"manifest": "labels.csv"}})
    assert isinstance(config.sampling, UniformSampling)


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("training.learning_rate=1e-3", "training", "learning_rate", 0.001),
        ("training.learning_rate=.5", "training", "learning_rate", 0.5),
        ("training.epochs=3", "training", "epochs", 3),
        ("augmentation.time_jitter=off", "augmentation", "time_jitter", False),
        ("augmentation.time_jitter=no", "augmentation", "time_jitter", False),
        ("augmentation.horizontal_flip=true", "augmentation", "horizontal_flip", True),
        ("model.recurrent=lstm", "model", "recurrent", "lstm"),
        ("data.manifest=../my data/labels é.csv", "data", "manifest", "../my data/labels é.csv"),
        ("data.manifest=a=b.csv", "data", "manifest", "a=b.csv"),
        ("tracking.uri=http://127.0.0.1:5000", "tracking", "uri", "http://127.0.0.1:5000"),
        ("data.manifest=2024", "data", "manifest", "2024"),
        ("tracking.alias=", "tracking", "alias", ""),
        ("tracking.experiment=-", "tracking", "experiment", "-"),
    ],
)
def test_overrides_have_the_type_of_their_key(small: str, override: str, section: str, key: str, value: object) -> None:
    found = getattr(getattr(load_config(small, [override]), section), key)
    assert found == value
    assert type(found) is type(value)


def test_the_last_override_wins(small: str) -> None:
    assert load_config(small, ["seed=1", "seed=2"]).seed == 2


def test_yaml_numbers_and_switches(tmp_path: Path) -> None:
    path = write(tmp_path, "name: n\ndata: {manifest: m.csv}\ntraining: {learning_rate: 1e-3}\naugmentation: {time_jitter: off}\n")
    config = load_config(path)
    assert config.training.learning_rate == 0.001
    assert config.augmentation.time_jitter is False


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        (["sampling.kind=rate", "sampling.frames_per_second=8"], RateSampling(frames_per_second=8)),
        (["sampling.kind=dense", "sampling.stride_s=0.2", "sampling.num_views=3"], DenseSampling(stride_s=0.2, num_views=3)),
        (["sampling.kind=uniform", "sampling.num_frames=4"], UniformSampling(num_frames=4)),
    ],
)
def test_sampling_is_one_of_three(small: str, overrides: list[str], kind: object) -> None:
    assert load_config(small, overrides).sampling == kind


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("training.epoch=3", ["unknown key 'training.epoch'", "did you mean 'epochs'?"]),
        ("trainin.epochs=3", ["unknown key 'trainin'", "did you mean 'training'?"]),
        ("model.lstm=true", ["unknown key 'model.lstm'", "keys here", "recurrent"]),
        ("sampling.num_frame=3", ["unknown key 'sampling.num_frame'", "did you mean 'num_frames'?"]),
        ("model.recurrent=lstmm", ["'model.recurrent'", "'rnn_tanh'", "'lstm'", "got 'lstmm'"]),
        ("training.epochs=0", ["'training.epochs'", "greater than or equal to 1", "got 0"]),
        ("training.epochs=2.5", ["'training.epochs'", "got 2.5"]),
        ("training.learning_rate=fast", ["'training.learning_rate'", "got 'fast'"]),
        ("data.val_fraction=1", ["'data.val_fraction'", "less than 1"]),
        ("augmentation.time_jitter=maybe", ["'augmentation.time_jitter'", "got 'maybe'"]),
        ("name=two words", ["'name'", "got 'two words'"]),
        ("training=3", ["'training'", "got 3"]),
        ("name.x=1", ["name"]),
        ("training.epochs=null", ["'training.epochs'", "got None"]),
        ("epochs", ["override 'epochs'", "expected key=value", "training.epochs=20"]),
        ("=3", ["override '=3'", "expected key=value"]),
    ],
)
def test_what_is_wrong_is_named(small: str, override: str, says: list[str]) -> None:
    message = refused(small, override)
    assert all(part in message for part in says), message


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["sampling.kind=rat"], ["'sampling", "'rat'", "uniform", "rate", "dense"]),
        (["sampling.kind=rate", "sampling.num_frames=3"], ["unknown key 'sampling.num_frames'"]),
        (["sampling.kind=rate", "sampling.frames_per_second=0"], ["'sampling.frames_per_second'", "greater than 0", "got 0"]),
        (["sampling.kind=dense", "sampling.num_views=0"], ["'sampling.num_views'"]),
    ],
)
def test_sampling_errors_speak_of_the_kind_chosen(small: str, overrides: list[str], says: list[str]) -> None:
    message = refused(small, *overrides)
    assert all(part in message for part in says), message
    assert message.count("\n") == 1, message  # one problem, not one for each kind


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["training.accumulate=20"], "training: accumulate=20 is more parts than batch_size=16 has clips"),
        (["training.balanced_sampling=true", "training.class_weights=balanced"], "training: balanced_sampling and class_weights=balanced"),
        (["training.monitor=val_top1"], "training: monitor=val_top1 is looked at only with patience or schedule=plateau"),
        (["augmentation.feature_noise=0.1", "model.trainable_stages=1"], "  augmentation.feature_noise needs stored features"),
        (["training.tbptt_frames=8", "model.bidirectional=true"], "  training.tbptt_frames needs a model that can be stepped"),
        (["training.gradient_health_every=1", "model.bidirectional=true"], "  training.gradient_health_every needs a model that can be"),
    ],
)
def test_keys_that_do_not_go_together_are_named(small: str, overrides: list[str], says: str) -> None:
    message = refused(small, *overrides)
    assert says in message
    assert "got" not in message  # not the whole section


def test_keys_that_go_together(small: str) -> None:
    load_config(small, ["training.monitor=val_top1", "training.schedule=plateau"])
    load_config(small, ["training.monitor=val_macro_f1", "training.patience=3"])
    load_config(small, ["augmentation.feature_noise=0.1", "model.trainable_stages=0"])


def test_only_changes_of_the_picture_are_stored_views() -> None:
    """Each other key of augmentation may change without a new encoding."""
    pixels = set(AugmentationConfig().of_pixels)
    assert pixels == set(AugmentationConfig.model_fields) - {
        *("views", "time_jitter", "speed", "time_warp", "time_crop", "frame_dropout", "feature_noise")
    }


def test_all_problems_come_at_once(small: str) -> None:
    message = refused(small, "training.epochs=0", "model.layer=2", "seed=-1")
    assert [part in message for part in ("training.epochs", "model.layer", "'seed'")] == [True] * 3


def test_what_is_required(tmp_path: Path) -> None:
    assert "'data' is required" in refused(write(tmp_path, "name: n\n"))
    assert "'data.manifest' is required" in refused(write(tmp_path, "name: n\ndata: {}\n"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: [unclosed\n", "cannot be read as YAML"),
        ("- a\n- b\n", "expected keys and values at the top level, got a list"),
        ("", "'name' is required"),
        ("hello\n", "run.yaml"),
        ("name: caf\x00\n", "cannot be read as YAML"),
        ("name: ${oc.env:NO_SUCH_VARIABLE_HERE}\ndata: {manifest: m}\n", "NO_SUCH_VARIABLE_HERE"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, text: str, says: str) -> None:
    assert says in refused(write(tmp_path, text))


def test_a_config_that_is_not_there(tmp_path: Path) -> None:
    message = refused("gesture")
    assert "did you mean 'gestures'?" in message
    assert "demo" in message
    assert "no config file" in refused(str(tmp_path))  # a folder


def test_a_config_cannot_be_changed(small: str) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config(small).seed = 3  # type: ignore[misc]


def test_the_config_to_copy_has_every_key() -> None:
    """A key that the file lacks is one that nobody who copies it will find."""
    written = yaml.safe_load((Path(__file__).parents[1] / "configs" / "gestures.yaml").read_text(encoding="utf-8"))
    dumped = load_config("gestures").model_dump()
    keys = [{key: set(value) if isinstance(value, dict) else None for key, value in tree.items()} for tree in (written, dumped)]
    assert keys[0] == keys[1]


# ------------------------------------------------------------------------------------------------------------------------- variants


def test_variants_are_all_combinations_each_with_its_name(small: str) -> None:
    found = load_variants(small, ["model.recurrent=lstm,gru", "training.epochs=3", "model.layers=1,2", "data.manifest=a,b.csv"])
    assert list(found) == [f"model.recurrent={core} model.layers={layers}" for core in ("lstm", "gru") for layers in (1, 2)]
    assert [(c.model.recurrent, c.model.layers) for c in found.values()] == [("lstm", 1), ("lstm", 2), ("gru", 1), ("gru", 2)]
    assert {(c.training.epochs, c.data.manifest) for c in found.values()} == {(3, "a,b.csv")}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], "nothing to compare"),
        (["model.recurrent=gru,gru"], "nothing to compare"),
        (["seed=1,2"], "nothing to compare"),
        (["model.layers=1,two"], "'model.layers'"),
    ],
)
def test_variants_that_cannot_be(small: str, overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_variants(small, overrides)
