"""Self-critical training (arXiv 1612.00563): sentences drawn at random are made likelier as far as they score better than the best guess.

The score is CIDEr-D, with the weights of n-grams from all training captions, as in the paper.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from reelscribe.models.decoder import END
from reelscribe.pipeline.captions import CaptionConfig
from reelscribe.pipeline.training.steps.batches import stack_targets
from reelscribe.pipeline.training.tasks import References

if TYPE_CHECKING:
    from reelscribe.models.captioner import Captioner
    from reelscribe.pipeline.training.steps.passes import ArrayNetwork

_N = 4  # longest n-grams
_SIGMA = 6.0  # of the penalty on other lengths
Gram = tuple[int, ...]


class _Vector(NamedTuple):
    """Weights of a sentence's n-grams, by their length."""

    weights: tuple[dict[Gram, float], ...]
    norms: tuple[float, ...]
    length: int  # pairs of words, as the reference code counts


class CiderReward:
    """CIDEr-D (arXiv 1411.5726) of sentences of tokens against the captions of training clips; equal to pycocoevalcap's for one corpus."""

    def __init__(self, references: Sequence[References]) -> None:
        sentences = [[tokens[:-1] for tokens in those.tokens] for those in references]
        self.clips_with = Counter(gram for those in sentences for gram in {gram for tokens in those for gram in _grams(tokens)})
        self.log_clips = math.log(len(references))
        self.vectors = [[self._vector(tokens) for tokens in those] for those in sentences]

    def __call__(self, tokens: Gram, clip: int) -> float:
        """The score of a sentence, without its end, for a clip."""
        said = self._vector(tokens)
        return 10 * sum(self._similarity(said, one) for one in self.vectors[clip]) / len(self.vectors[clip])

    def _vector(self, tokens: Gram) -> _Vector:
        weights: tuple[dict[Gram, float], ...] = tuple({} for _ in range(_N))
        for gram, count in Counter(_grams(tokens)).items():
            weights[len(gram) - 1][gram] = count * (self.log_clips - math.log(max(1, self.clips_with[gram])))
        norms = tuple(math.sqrt(sum(weight**2 for weight in part.values())) for part in weights)
        return _Vector(weights, norms, max(0, len(tokens) - 1))

    def _similarity(self, said: _Vector, other: _Vector) -> float:
        """Mean over the lengths of n-grams of the clipped cosine, less for another length of the sentence."""
        total = 0.0
        for ours, theirs, norm, their_norm in zip(said.weights, other.weights, said.norms, other.norms, strict=True):
            if norm and their_norm:
                total += sum(min(weight, theirs[gram]) * theirs[gram] for gram, weight in ours.items() if gram in theirs) / (
                    norm * their_norm
                )
        return total / _N * math.exp(-((said.length - other.length) ** 2) / (2 * _SIGMA**2))


class SelfCritic:
    """Draws sentences and says how much better they are than the greedy ones."""

    def __init__(self, references: Sequence[References], rules: CaptionConfig) -> None:
        self.reward = CiderReward(references)
        self.rules = {"min_length": rules.min_length, "max_length": rules.max_length}

    def __call__(
        self, network: ArrayNetwork, inputs: Tensor, lengths: Tensor, gaps: Tensor, clips: Sequence[int], *, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Inputs (B, T, ...) of training clips -> drawn tokens (B, L) with IGNORED after the end, and what each gains (B,).

        The model speaks as it would in evaluation, without dropout. Each clip has a seed of its own, so that its sentence does not depend
        on its neighbours.
        """
        model = cast("Captioner", network.model)
        training = model.training
        model.eval()
        drawn, gains = [], []
        with torch.no_grad():
            seen = network.features(inputs, lengths, gaps)
            best = model.say(seen, lengths, **self.rules)
            for row, clip in enumerate(clips):
                one = type(seen)(*(part[row : row + 1] for part in seen))
                (sentence,) = model.imagine(one, lengths[row : row + 1], seed=(seed + clip) % 2**63, **self.rules)
                drawn.append((*sentence.tokens, END))
                gains.append(self.reward(sentence.tokens, clip) - self.reward(best[row][0].tokens, clip))
        model.train(training)
        return stack_targets(drawn).to(inputs.device), torch.tensor(gains, device=inputs.device)


def _grams(tokens: Gram) -> list[Gram]:
    """All runs of one to four tokens, with repeats."""
    return [tokens[i : i + n] for n in range(1, _N + 1) for i in range(len(tokens) - n + 1)]
