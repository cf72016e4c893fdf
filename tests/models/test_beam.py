"""Searches over a language whose sentences can all be listed, and over random ones."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reelscribe.models.beam import Hypothesis, Rules, State, Step, beam_search, greedy, sample

END, BEGIN = 0, 1
VOCABULARY = 5  # end, begin and three words


class Language:
    """Log-probabilities of the next token by clip and by the last two tokens, from a seed; the state is the clip and the last token."""

    def __init__(self, seed: int, clips: int = 1) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table = (2 * torch.randn(clips, VOCABULARY, VOCABULARY, VOCABULARY, generator=generator)).log_softmax(3)
        self.first = (torch.arange(clips), torch.full((clips,), BEGIN))

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
        clip, before = state
        return self.table[clip, before, tokens], (clip, tokens), torch.stack((clip, tokens), 1).float()

    def log_probability(self, clip: int, words: tuple[int, ...]) -> float:
        said = (BEGIN, BEGIN, *words, END)
        return sum(float(self.table[clip, a, b, c]) for a, b, c in zip(said, said[1:], said[2:], strict=False))


def all_sentences(rules: Rules) -> list[tuple[int, ...]]:
    words = [w for w in range(2, VOCABULARY) if w not in rules.never]
    lengths = range(rules.min_length, rules.max_length + 1)
    return [s for length in lengths for s in itertools.product(words, repeat=length) if not repeats(s, rules.no_repeat_ngram)]


def repeats(words: tuple[int, ...], n: int) -> bool:
    runs = [words[i : i + n] for i in range(len(words) - n + 1)] if n else []
    return len(set(runs)) < len(runs)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    penalty=st.sampled_from((0.0, 0.7, 1.0)),
    no_repeat=st.integers(0, 2),
    shortest=st.integers(0, 2),
    never=st.sampled_from(((), (3,))),
)
def test_a_beam_as_wide_as_all_sentences_is_an_exhaustive_search(
    seed: int, penalty: float, no_repeat: int, shortest: int, never: tuple[int, ...]
) -> None:
    rules = Rules(begin=BEGIN, end=END, never=never, min_length=shortest, max_length=3, no_repeat_ngram=no_repeat, length_penalty=penalty)
    language = Language(seed)
    (found,) = beam_search(language.step, language.first, count=1, width=60, rules=rules)
    expected = {words: language.log_probability(0, words) for words in all_sentences(rules)}
    whole = [one for one in found if len(one.tokens) >= shortest and one.tokens in expected]
    best = max(expected, key=lambda words: expected[words] / (len(words) + 1) ** penalty)
    assert whole[0].tokens == best
    assert {one.tokens for one in whole} == set(expected)
    for one in whole:
        assert one.log_probability == pytest.approx(expected[one.tokens], abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**20), no_repeat=st.integers(0, 3), shortest=st.integers(0, 4))
def test_a_beam_of_one_is_greedy(seed: int, no_repeat: int, shortest: int) -> None:
    rules = Rules(begin=BEGIN, end=END, min_length=shortest, max_length=8, no_repeat_ngram=no_repeat)
    language = Language(seed, clips=3)
    beams = beam_search(language.step, language.first, count=3, width=1, rules=rules)
    for (beam,), one in zip(beams, greedy(language.step, language.first, count=3, rules=rules), strict=True):
        same(beam, one)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**20), width=st.integers(1, 6), no_repeat=st.integers(0, 2))
def test_a_batch_gives_what_each_clip_gives_alone(seed: int, width: int, no_repeat: int) -> None:
    rules = Rules(begin=BEGIN, end=END, max_length=6, no_repeat_ngram=no_repeat)
    language = Language(seed, clips=4)
    batch = beam_search(language.step, language.first, count=4, width=width, rules=rules)
    for clip in range(4):
        state = tuple(part[clip : clip + 1] for part in language.first)
        (alone,) = beam_search(language.step, state, count=1, width=width, rules=rules)
        for one, other in zip(batch[clip], alone, strict=True):
            same(one, other)
        for one in batch[clip]:
            assert one.log_probability == pytest.approx(language.log_probability(clip, one.tokens), abs=1e-4)
            assert one.attention.tolist() == [[clip, word] for word in (BEGIN, *one.tokens)]  # of its own steps, in their order
            assert not repeats(one.tokens, no_repeat)


def same(one: Hypothesis, other: Hypothesis) -> None:
    assert one.tokens == other.tokens
    assert one.log_probability == pytest.approx(other.log_probability, abs=1e-5)
    assert torch.equal(one.attention, other.attention)


def test_sampling_draws_as_the_language_says() -> None:
    language = Language(3)
    rules = Rules(begin=BEGIN, end=END, min_length=0, max_length=1)
    state: State = tuple(part.repeat(6_000) for part in language.first)
    step: Step = language.step

    def shares(temperature: float, top_p: float) -> list[float]:
        generator = torch.Generator().manual_seed(0)
        drawn = sample(step, state, count=6_000, rules=rules, temperature=temperature, top_p=top_p, generator=generator)
        words = [one.tokens[0] if one.tokens else END for one in drawn]
        return [words.count(word) / len(words) for word in range(VOCABULARY)]

    table = language.table[0, BEGIN, BEGIN].clone()
    table[BEGIN] = -math.inf
    for temperature in (0.5, 1.0, 2.0):
        assert shares(temperature, 1.0) == pytest.approx((table / temperature).softmax(0).tolist(), abs=0.025)
    plain = table.softmax(0)
    order = plain.argsort(descending=True)
    kept = order[: int((plain[order].cumsum(0) < 0.7).sum()) + 1]
    expected = torch.zeros(VOCABULARY)
    expected[kept] = plain[kept] / plain[kept].sum()
    assert shares(1.0, 0.7) == pytest.approx(expected.tolist(), abs=0.025)
    assert max(shares(1.0, 1e-6)) == 1.0


@pytest.mark.parametrize("numbers", [{"min_length": 3, "max_length": 2}, {"max_length": 0}, {"min_length": -1}])
def test_lengths_that_cannot_be_are_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"expected 0 <= min <= max"):
        Rules(begin=BEGIN, end=END, **numbers)
