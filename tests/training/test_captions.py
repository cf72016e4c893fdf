"""What captions ask of the loop: another caption in each epoch, sentences that are said and scored, and training on their scores."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny_training import CONFIG, captioner, drawn_data, trainer

from reelscribe.models.captioner import Captioner
from reelscribe.pipeline.bundle import BundleSpec, load_bundle, new_captioner, save_bundle
from reelscribe.pipeline.captions import CaptionConfig
from reelscribe.pipeline.config import AugmentationConfig, Config, ModelConfig, TransformConfig
from reelscribe.pipeline.errors import ModelError
from reelscribe.pipeline.predictor import caption
from reelscribe.pipeline.sampling import UniformSampling
from reelscribe.pipeline.training.data import TrainingData
from reelscribe.pipeline.training.loop import Trainer
from reelscribe.pipeline.training.scores.captions import cider_by_clip
from reelscribe.pipeline.training.steps.batches import Batches, Draw
from reelscribe.pipeline.training.steps.self_critical import CiderReward
from reelscribe.pipeline.training.tasks import TASKS, References
from reelscribe.pipeline.vocabulary import vocabulary, word_vocabulary


def test_the_reward_is_the_reference_codes_score(shared_data: Path) -> None:
    items = json.loads((shared_data / "msvd" / "metric_oracle.json").read_text(encoding="utf-8"))["items"]
    captions = [item["references"] for item in items]
    labels = word_vocabulary([one for those in captions for one in those] + [item["candidate"] for item in items], min_count=1)
    references = [TASKS["caption"].target({"captions": those}, labels) for those in captions]
    reward = CiderReward([one for one in references if isinstance(one, References)])
    said = [vocabulary(labels).encode(item["candidate"])[:-1] for item in items]
    assert [reward(tokens, clip) for clip, tokens in enumerate(said)] == pytest.approx([item["cider"] for item in items], abs=1e-6)
    other = said[1:] + said[:1]
    expected = cider_by_clip([vocabulary(labels).decode(tokens) for tokens in other], captions)
    assert [reward(tokens, clip) for clip, tokens in enumerate(other)] == pytest.approx(expected.tolist(), abs=1e-6)


def captioned(folder: Path, **changes: Any) -> Trainer:
    data = drawn_data(folder, train=8, val=4, task="caption")
    config = CONFIG.model_copy(update={"epochs": 4, "learning_rate": 1e-2, **changes})
    return trainer(data, config)


def test_every_caption_of_a_clip_comes_in_turn(tmp_path: Path) -> None:
    data = drawn_data(tmp_path, train=4, val=2, task="caption")
    batches = Batches(data.train, len(data.labels), CONFIG, AugmentationConfig(), seed=0)
    own = data.train.targets[1]
    assert isinstance(own, References)
    rows = [batches.targets(epoch, [Draw(1, 0), Draw(0, 0)])[0] for epoch in range(1, 2 * len(own.tokens) + 1)]
    heard = [tuple(row[row >= 0].tolist()) for row in rows]
    assert set(heard[: len(own.tokens)]) == set(heard[len(own.tokens) :]) == set(own.tokens)


def test_epochs_on_scores_follow_and_raise_them(tmp_path: Path) -> None:
    """After a few epochs of cross-entropy, drawn sentences that score better become likelier."""
    plain, critical = captioned(tmp_path, epochs=6), captioned(tmp_path, epochs=6, self_critical_epochs=3)
    before, after = plain.fit(lambda _: None).history, critical.fit(lambda _: None).history
    assert [e["val_loss"] for e in before[:3]] == [e["val_loss"] for e in after[:3]]
    assert before[3]["val_loss"] != after[3]["val_loss"]
    assert after[-1]["val_cider"] >= after[2]["val_cider"]
    assert np.isfinite([value for epoch in after for value in epoch.values()]).all()


def test_validation_says_what_the_network_says(tmp_path: Path) -> None:
    one = captioned(tmp_path, epochs=2)
    trained = one.fit(lambda _: None)
    words, model = vocabulary(one.data.labels), one.model.eval()
    assert isinstance(model, Captioner)
    said = []
    for i in range(len(one.data.val)):
        frames = one.data.val.view(i, 0)[0][None]
        lengths = torch.tensor([frames.shape[1]])
        ((found,),) = model.say(model.forward_features(model.encode(frames), lengths), lengths, max_length=8)
        said.append(words.decode(found.tokens))
        assert trained.val_logits[i, 2 : 2 + len(found.tokens)].tolist() == list(found.tokens)
    captions = [target.captions for target in one.data.val.targets if isinstance(target, References)]
    assert trained.history[-1]["val_cider"] == pytest.approx(cider_by_clip(said, captions).mean())


def spec(data: TrainingData, **settings: Any) -> BundleSpec:
    return BundleSpec(
        name="x",
        task="caption",
        labels=data.labels,
        model=ModelConfig(),
        caption=CaptionConfig(max_length=8, **settings),
        sampling=UniformSampling(),
        transform=TransformConfig(),
        caption_slope=2.0,
        caption_offset=1.0,
    )


def test_the_best_sentences_come_first_with_their_confidences(tmp_path: Path) -> None:
    data = drawn_data(tmp_path, train=2, val=2, task="caption")
    model = captioner(data).eval()
    frames = data.val.view(0, 0)[0][None]
    lengths = torch.tensor([frames.shape[1]])
    seen = model.forward_features(model.encode(frames), lengths)
    found = caption(model, seen, spec(data, beam=4), seed="a")
    assert len(found.top_k) == 4
    assert (found.label, found.confidence) == found.top_k[0]
    logits = [2 * mean + 1 for mean in found.log_probabilities]
    assert [confidence for _, confidence in found.top_k] == pytest.approx([1 / (1 + math.exp(-one)) for one in logits])
    assert list(found.log_probabilities) == sorted(found.log_probabilities, reverse=True)
    assert " ".join(found.tokens[:-1]) == found.label


def test_drawn_sentences_follow_from_the_file(tmp_path: Path) -> None:
    data = drawn_data(tmp_path, train=2, val=2, task="caption")
    model = captioner(data).eval()
    frames = data.val.view(0, 0)[0][None]
    seen = model.forward_features(model.encode(frames), torch.tensor([frames.shape[1]]))

    def drawn(seed: str) -> tuple[str, ...]:
        return tuple(text for text, _ in caption(model, seen, spec(data, temperature=1.5), seed=seed).top_k)

    assert drawn("a") == drawn("a")
    assert drawn("a") != drawn("b")
    assert 1 < len(drawn("a")) <= 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "single_label", "caption": {"beam": 3}}, "caption: these settings are for task=caption"),
        ({"caption": {"min_length": 9, "max_length": 8}}, "min_length=9 is more than max_length=8"),
        ({"caption": {"top_p": 0.5}}, "top_p=0.5 is for sentences drawn at random; set temperature above 0"),
        ({"training": {"epochs": 5, "self_critical_epochs": 5}}, "self_critical_epochs=5: epochs=5 leave none to learn to speak in"),
        (
            {"sampling": {"kind": "dense", "num_frames": 4, "stride_s": 0.1, "num_views": 2}},
            "sampling.num_views: task=caption looks at one view of a clip",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Config.model_validate({"name": "x", "task": "caption", "data": {"manifest": "labels.csv"}, **changes})


def test_a_model_with_the_words_of_another_is_refused(tmp_path: Path) -> None:
    data = drawn_data(tmp_path, train=2, val=2, task="caption")
    small = {"encoder": "tiny", "weights": "none", "stride": 4, "hidden_size": 16, "projection": 8}
    own = spec(data).model_copy(update={"model": ModelConfig(**small), "transform": TransformConfig(height=16, width=16)})
    network = new_captioner(own.model, own.transform, own.caption, num_tokens=len(own.labels))
    bundle = save_bundle(tmp_path / "model", spec=own, state=network.state_dict(), card="")
    assert isinstance(bundle.build(), Captioner)
    other = own.model_copy(update={"labels": (*own.labels, "another", "word")})
    with pytest.raises(ModelError, match=r"the tensors do not fit the network in model.json"):
        save_bundle(tmp_path / "other", spec=other, state=network.state_dict(), card="").build()
    (tmp_path / "model" / "model.json").write_text(own.model_dump_json().replace('"<unk>"', '"<other>"'), encoding="utf-8")
    with pytest.raises(ModelError, match="a vocabulary has <end>, <begin>, <unk> and words"):
        load_bundle(tmp_path / "model")
