"""Scores of captions by the field's reference code (pycocoevalcap), and figures that need no reference code."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
References = Sequence[Sequence[str]]  # for each clip what people said of it, normalised

RESAMPLES = 1000
_INTERVAL = (2.5, 97.5)  # percentiles
NO_JAVA = "not computed: needs Java"


@dataclass(frozen=True, kw_only=True)
class CaptionScores:
    """Metrics over all clips that have captions."""

    metrics: dict[str, float]  # those of caption_scores
    intervals: dict[str, tuple[float, float]]  # of 95 %, over the choice of clips
    by_clip: dict[str, Floats]  # cider, rouge_l, and meteor where it is computed: (N,)
    notes: dict[str, str] = field(default_factory=dict)  # of a metric that is not there, why


def caption_scores(said: Sequence[str], references: References, *, can_say: Callable[[str], bool]) -> CaptionScores:
    """Scores of captions (N,) against the references of each, all of them normalised.

    ``bleu1`` to ``bleu4``, ``rouge_l`` and ``cider`` (CIDEr-D, arXiv 1411.5726) are those of pycocoevalcap. ``exact_match`` is the
    share of captions that some person wrote so; ``distinct1`` and ``distinct2`` the share of different words and pairs of words among all
    said (arXiv 1510.03055); ``length`` in words; ``unseen_words`` the share of the references' words that the model cannot say;
    ``one_caption_cider`` what the caption scores that is the commonest among the references, said of every clip. Intervals are those of
    1000 bootstrap samples of the clips.
    """
    bleu_counts = _bleu_counts(said, references)
    cider, rouge = cider_by_clip(said, references), _rouge(said, references)
    exact = np.array([caption in those for caption, those in zip(said, references, strict=True)], dtype=np.float64)
    by_clip = {"cider": cider, "rouge_l": rouge}
    metrics = {f"bleu{n + 1}": float(value) for n, value in enumerate(_bleu(bleu_counts.sum(axis=0, keepdims=True))[0])}
    metrics |= {"rouge_l": float(rouge.mean()), "cider": float(cider.mean()), "exact_match": float(exact.mean())}
    commonest = _commonest(references)
    metrics |= {
        "one_caption_cider": float(cider_by_clip([commonest] * len(said), references).mean()),
        "distinct1": _distinct([(word,) for caption in said for word in caption.split()]),
        "distinct2": _distinct([pair for caption in said for pair in pairwise(caption.split())]),
        "length": float(np.mean([len(caption.split()) for caption in said])),
        "unseen_words": _unseen(references, can_say),
        "clips": float(len(said)),
    }
    times = np.random.default_rng(0).multinomial(len(said), np.full(len(said), 1 / len(said)), RESAMPLES)  # each clip in each sample
    resampled = {f"bleu{n + 1}": values for n, values in enumerate(_bleu(times @ bleu_counts).T)}
    resampled |= {name: times @ values / len(said) for name, values in (*by_clip.items(), ("exact_match", exact))}
    intervals = {name: (float(low), float(high)) for name, (low, high) in _percentiles(resampled).items()}
    return CaptionScores(metrics=metrics, intervals=intervals, by_clip=by_clip)


def with_meteor(scores: CaptionScores, said: Sequence[str], references: References) -> CaptionScores:
    """The scores with METEOR 1.5, by its jar; where there is no Java, or it fails, with a note. It takes seconds, and 2 GB of memory."""
    if not shutil.which("java"):
        return replace(scores, notes=scores.notes | {"meteor": NO_JAVA})
    try:
        corpus, by_clip = _meteor(said, references)
    except (OSError, ValueError) as error:  # a Java that ends early breaks the pipe, or leaves numbers unsaid
        return replace(scores, notes=scores.notes | {"meteor": f"not computed: Java failed ({error})"})
    return replace(scores, metrics=scores.metrics | {"meteor": corpus}, by_clip=scores.by_clip | {"meteor": by_clip})


def cider_by_clip(said: Sequence[str], references: References) -> Floats:
    """CIDEr-D of each caption (N,), times 10 as the field does; the weight of an n-gram falls with the clips whose references have it."""
    from pycocoevalcap.cider.cider_scorer import CiderScorer

    scorer = CiderScorer()
    for caption, those in zip(said, references, strict=True):
        scorer += (caption, list(those))
    return np.asarray(scorer.compute_score()[1], dtype=np.float64)


def extremes(scores: Floats, count: int) -> list[int]:
    """Places of the lowest scores (N,) and of the highest, so many of each, from the lowest on."""
    order: list[int] = scores.argsort(kind="stable").tolist()
    return order if len(order) <= 2 * count else [*order[:count], *order[-count:]]


def _rouge(said: Sequence[str], references: References) -> Floats:
    from pycocoevalcap.rouge.rouge import Rouge

    scorer = Rouge()
    return np.array([scorer.calc_score([caption], list(those)) for caption, those in zip(said, references, strict=True)])


def _bleu_counts(said: Sequence[str], references: References) -> Floats:
    """What BLEU adds up over clips, (N, 10): words, words of the closest reference, n-grams guessed, n-grams right, for n from 1 to 4."""
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    scorer = BleuScorer(n=4)
    for caption, those in zip(said, references, strict=True):
        scorer += (caption, list(those))
    rows = []
    for counts in scorer.ctest:
        closest = scorer._single_reflen(counts["reflen"], "closest", counts["testlen"])
        rows.append([counts["testlen"], closest, *counts["guess"], *counts["correct"]])
    return np.array(rows, dtype=np.float64)


def _bleu(total: Floats) -> Floats:
    """Sums over sets of clips (R, 10) -> BLEU-1 to BLEU-4 of each (R, 4); the small numbers are the reference code's."""
    precision = (total[:, 6:] + 1e-15) / (total[:, 2:6] + 1e-9)
    ratio = (total[:, :1] + 1e-15) / (total[:, 1:2] + 1e-9)
    brevity = np.where(ratio < 1, np.exp(1 - 1 / ratio), 1.0)
    scores: Floats = np.cumprod(precision, axis=1) ** (1 / np.arange(1, 5)) * brevity
    return scores


def _meteor(said: Sequence[str], references: References) -> tuple[float, Floats]:
    """The corpus and each caption, by METEOR 1.5's jar."""
    from pycocoevalcap.meteor.meteor import Meteor

    given = {i: list(those) for i, those in enumerate(references)}
    scorer = Meteor()
    try:
        with scorer.meteor_p, redirect_stdout(io.StringIO()):
            score, scores = scorer.compute_score(given, {i: [caption] for i, caption in enumerate(said)})
            scorer.meteor_p.kill()
    finally:
        if scorer.lock.locked():  # left so by an error, and its __del__ would wait for it for ever
            scorer.lock.release()
    return float(score), np.array(scores)


def _percentiles(values: Mapping[str, Floats]) -> dict[str, Floats]:
    return {name: np.percentile(found, _INTERVAL) for name, found in values.items()}


def _distinct(grams: Sequence[tuple[str, ...]]) -> float:
    return len(set(grams)) / max(1, len(grams))


def _unseen(references: References, can_say: Callable[[str], bool]) -> float:
    words = [word for those in references for caption in those for word in caption.split()]
    known = {word: can_say(word) for word in set(words)}
    return sum(not known[word] for word in words) / max(1, len(words))


def _commonest(references: References) -> str:
    """The caption that most clips have; of equal ones the first in the alphabet."""
    counts: dict[str, int] = {}
    for those in references:
        for caption in set(those):
            counts[caption] = counts.get(caption, 0) + 1
    return min(counts, key=lambda caption: (-counts[caption], caption))
