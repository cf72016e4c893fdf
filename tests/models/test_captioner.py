"""The captioner: the battery of every network over decoders and attentions, and sentences that follow from the scores."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.functional import cross_entropy

from reelscribe.models.captioner import Captioner
from reelscribe.models.decoder import ATTENTIONS, BEGIN, DECODERS, END, UNKNOWN

TOKENS = 11
TINY: dict[str, Any] = {
    "num_tokens": TOKENS,
    "frame_size": (32, 48),
    "encoder": "tiny",
    "weights": "none",
    "stride": 8,
    "trainable_stages": 3,
    "projection": 6,
    "hidden_size": 12,
    "embedding_size": 8,
}
SPACES = (True, False)
COMBINATIONS = list(itertools.product(DECODERS, ATTENTIONS, SPACES))


def captioner(**changes: Any) -> Captioner:
    torch.manual_seed(0)
    return Captioner(**{**TINY, **changes})


def clips(batch: int = 3, frames: int = 7) -> Tensor:
    return torch.randint(0, 256, (batch, frames, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


LENGTHS = torch.tensor([7, 4, 1])
SENTENCES = torch.tensor([[3, 4, 5, 6, END], [7, 8, END, -100, -100], [9, END, -100, -100, -100]])


def loss_of(scores: Tensor, sentences: Tensor) -> Tensor:
    return cross_entropy(scores.flatten(0, 1), sentences.flatten(), ignore_index=-100)


@pytest.mark.parametrize(("decoder", "attention", "space"), COMBINATIONS)
class TestEveryCombination:
    def test_finite_and_of_the_declared_shapes(self, decoder: str, attention: str, space: bool) -> None:
        model = captioner(decoder=decoder, attention=attention, attend_space=space).eval()
        seen = model.forward_features(model.encode(clips()), LENGTHS)
        scores = model.forward_head(seen, LENGTHS, SENTENCES)
        assert scores.shape == (3, 5, TOKENS)
        assert scores.isfinite().all()
        torch.testing.assert_close(model(clips(), LENGTHS), scores[:, :1], atol=1e-6, rtol=1e-5)
        for one, length in zip(model.say(seen, LENGTHS, max_length=6), LENGTHS, strict=True):
            (found,) = one
            assert found.attention.shape == (len(found.tokens) + 1, 7, *(model.grid_size if space else ()))
            looked = found.attention.flatten(1).sum(1)
            torch.testing.assert_close(looked, torch.ones_like(looked))
            assert found.attention[:, length:].abs().sum() == 0
            assert not {BEGIN, END, UNKNOWN} & set(found.tokens)

    def test_every_trainable_parameter_gets_a_finite_gradient(self, decoder: str, attention: str, space: bool) -> None:
        model = captioner(decoder=decoder, attention=attention, attend_space=space, coverage=True)
        loss_of(model(clips(), LENGTHS, SENTENCES), SENTENCES).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 1e-8, name  # less is rounding, which Adam makes steps of

    def test_padding_changes_nothing(self, decoder: str, attention: str, space: bool) -> None:
        model = captioner(decoder=decoder, attention=attention, attend_space=space, coverage=True).eval()
        frames, other = clips(), clips()
        for row, length in enumerate(LENGTHS):
            other[row, length:] = 255
        with torch.no_grad():
            padded = model(frames, LENGTHS, SENTENCES)
            torch.testing.assert_close(model(other, LENGTHS, SENTENCES), padded, atol=1e-6, rtol=1e-5)
            for row, length in enumerate(LENGTHS):
                alone = model(frames[row : row + 1, :length], LENGTHS[row : row + 1], SENTENCES[row : row + 1])
                torch.testing.assert_close(alone[0], padded[row], atol=1e-5, rtol=1e-5)

    def test_stepped_equals_teacher_forced(self, decoder: str, attention: str, space: bool) -> None:
        model = captioner(decoder=decoder, attention=attention, attend_space=space, coverage=True).eval()
        with torch.no_grad():
            torch.nn.init.constant_(model.decoder.coverage, 0.5)
            seen = model.forward_features(model.encode(clips()), LENGTHS)
            memory = model.remember(seen, LENGTHS)
            state, tokens = model.decoder.first_state(memory), torch.full((3,), BEGIN)
            whole = model.forward_head(seen, LENGTHS, SENTENCES)
            for i in range(SENTENCES.shape[1]):
                scores, state, _ = model.decoder.step(tokens, state, memory)
                torch.testing.assert_close(scores, whole[:, i], atol=1e-5, rtol=1e-5)
                tokens = SENTENCES[:, i].clamp(min=END)

    def test_sentences_of_a_batch_are_those_of_each_clip_alone(self, decoder: str, attention: str, space: bool) -> None:
        model = captioner(decoder=decoder, attention=attention, attend_space=space).eval()
        for beam in (1, 4):
            seen = model.forward_features(model.encode(clips()), LENGTHS)
            batch = model.say(seen, LENGTHS, beam=beam, max_length=6, no_repeat_ngram=2)
            for row, length in enumerate(LENGTHS.tolist()):
                one = model.forward_features(model.encode(clips()[row : row + 1, :length]), LENGTHS[row : row + 1])
                (alone,) = model.say(one, LENGTHS[row : row + 1], beam=beam, max_length=6, no_repeat_ngram=2)
                assert [found.tokens for found in batch[row]] == [found.tokens for found in alone]
                assert [found.log_probability for found in batch[row]] == pytest.approx([f.log_probability for f in alone], abs=1e-4)

    def test_saved_and_loaded_is_equal(self, decoder: str, attention: str, space: bool) -> None:
        options = {"decoder": decoder, "attention": attention, "attend_space": space, "coverage": True}
        model, other = captioner(**options).eval(), Captioner(**{**TINY, **options}).eval()
        other.load_state_dict(load(save({k: v.contiguous() for k, v in model.state_dict().items()})), strict=True)
        with torch.no_grad():
            assert torch.equal(other(clips(), LENGTHS, SENTENCES), model(clips(), LENGTHS, SENTENCES))

    def test_overfits_one_batch_and_says_it(self, decoder: str, attention: str, space: bool) -> None:
        model = captioner(decoder=decoder, attention=attention, attend_space=space, dropout=0.0, hidden_size=24)
        lengths = torch.full((3,), 4)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
        for _ in range(50):
            optimizer.zero_grad()
            loss = loss_of(model(clips(frames=4), lengths, SENTENCES), SENTENCES)
            loss.backward()
            optimizer.step()
        assert loss.item() < 0.1  # a guess gives ln 11 = 2.4
        model.eval()
        seen = model.forward_features(model.encode(clips(frames=4)), lengths)
        for beam in (1, 3):
            said = [one[0].tokens for one in model.say(seen, lengths, beam=beam, max_length=8)]
            assert said == [(3, 4, 5, 6), (7, 8), (9,)]


@pytest.mark.parametrize("core", ["convgru", "mingru", "transformer", "mean"])
def test_any_core_carries_the_decoder(core: str) -> None:
    model = captioner(recurrent=core, motion="shift_difference")
    loss_of(model(clips(), LENGTHS, SENTENCES), SENTENCES).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_the_log_probability_is_that_of_the_sentence() -> None:
    model = captioner().eval()
    lengths = torch.tensor([7, 7, 7])
    seen = model.forward_features(model.encode(clips()), lengths)
    for row, (one, *_) in enumerate(model.say(seen, lengths, beam=3, max_length=6)):
        sentence = torch.tensor([[*one.tokens, END]])
        scores = model(clips()[row : row + 1], lengths[:1], sentence)
        expected = -cross_entropy(scores[0], sentence[0], reduction="sum")
        assert one.log_probability == pytest.approx(expected.item(), abs=1e-4)


def test_a_word_hears_its_own_past_as_often_as_asked() -> None:
    """With a share of 1 each word is heard as the model would say it after the true ones; with 0, and outside of training, never."""
    model = captioner(dropout=0.0).train()
    true = model(clips(), LENGTHS, SENTENCES)
    said = true.argmax(2)
    assert not torch.equal(said[:, :-1], SENTENCES[:, :-1])
    model.scheduled_sampling = 1.0
    heard = model(clips(), LENGTHS, SENTENCES)
    model.eval()
    torch.testing.assert_close(heard, model(clips(), LENGTHS, said), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model(clips(), LENGTHS, SENTENCES), true, atol=1e-6, rtol=1e-5)


def test_parts_of_a_batch_hear_themselves_at_the_same_places() -> None:
    model = captioner(dropout=0.3).train()
    model.scheduled_sampling = 0.5
    torch.manual_seed(3)
    model.set_shard(0, 3)
    whole = model(clips(), LENGTHS, SENTENCES)
    for row in range(3):
        torch.manual_seed(3)
        model.set_shard(row, 3)
        part = model(clips()[row : row + 1], LENGTHS[row : row + 1], SENTENCES[row : row + 1])
        torch.testing.assert_close(part[0], whole[row], atol=1e-5, rtol=1e-5)


def test_a_seed_gives_the_same_sentences() -> None:
    model = captioner().eval()
    seen = model.forward_features(model.encode(clips()), LENGTHS)

    def draw(seed: int) -> list[tuple[int, ...]]:
        return [one.tokens for one in model.imagine(seen, LENGTHS, seed=seed, temperature=2.0, top_p=0.95, max_length=8)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"decoder": "rnn"}, r"unknown decoder 'rnn'.*known: gru, lstm"),
        ({"attention": "dott"}, r"unknown attention 'dott'; nearest: dot"),
        ({"num_tokens": 3}, r"num_tokens=3: expected more than the 3"),
        ({"readout": "last", "bidirectional": True}, r"readout='last': the half that reads from the end"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        captioner(**wrong)
