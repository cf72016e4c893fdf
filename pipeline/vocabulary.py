"""Captions -> tokens and back: the field's way of writing words, and the vocabularies that a captioner may have.

A vocabulary is the list of its tokens, in the order of the network's outputs: nothing else is needed to use it, so it is kept in a
model's ``labels``. In that of a BPE (arXiv 1508.07909) words begin with ``▁``; its merges follow from the order of its tokens.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END, BEGIN, UNKNOWN = "<end>", "<begin>", "<unk>"
SPECIAL = (END, BEGIN, UNKNOWN)  # in the order that models/decoder.py gives them
_BEGINS = "▁"  # a word

# As the Penn Treebank splits words, and with the same marks dropped as in the field's scorer (pycocoevalcap's PTBTokenizer).
_CONTRACTIONS = re.compile(r"(?<=\w)(n't|'(?:s|m|d|ll|re|ve))(?!\w)|\b(can)(not)\b|\b(gon|wan)(na)\b|\b(got)(ta)\b")
_TOKENS = re.compile(r"n't|'(?:s|m|d|ll|re|ve)(?!\w)|\w+(?:[-'./&@]\w+|(?<=\d)[:,]\d+)*|[^\w\s]")
_DROPPED = re.compile(r"[\"'`´‘’“”()\[\]{}.,:;?!…–—▁-]+")


def normalise(text: str) -> str:
    """A caption in small letters, its words between single blanks, without punctuation marks.

    Parts of words stand apart as in the Penn Treebank: ``it 's``, ``does n't``, ``can not``.
    """
    small = text.lower().replace("’", "'")
    apart = _CONTRACTIONS.sub(lambda found: " ".join(["", *(part for part in found.groups() if part)]), small)
    return " ".join(word for word in _TOKENS.findall(apart) if not _DROPPED.fullmatch(word))


class Vocabulary:
    """Tokens and their numbers. Raises ValueError for a list that is no vocabulary."""

    def __init__(self, tokens: Sequence[str]) -> None:
        if tuple(tokens[: len(SPECIAL)]) != SPECIAL or len(set(tokens)) < len(tokens) or len(tokens) == len(SPECIAL):
            raise ValueError(
                f"{len(tokens)} tokens that begin with {', '.join(tokens[:3])}: a vocabulary has {', '.join(SPECIAL)} and words"
            )
        self.tokens = tuple(tokens)
        self.numbers = {token: number for number, token in enumerate(tokens)}
        self.in_pieces = any(token.startswith(_BEGINS) for token in tokens)

    def encode(self, caption: str) -> tuple[int, ...]:
        """A caption as ``normalise`` gives it -> the numbers of its tokens and of the end."""
        if self.in_pieces:
            return (*self._bpe.encode(caption).ids, self.numbers[END])
        return (*(self.numbers.get(word, self.numbers[UNKNOWN]) for word in caption.split()), self.numbers[END])

    def decode(self, numbers: Iterable[int]) -> str:
        """Numbers of tokens, without the end, -> a caption."""
        said = [self.tokens[number] for number in numbers]
        return "".join(said).replace(_BEGINS, " ").strip() if self.in_pieces else " ".join(said)

    def can_say(self, word: str) -> bool:
        """Whether a word is in the vocabulary, or can be put together from its pieces."""
        return self.numbers[UNKNOWN] not in self.encode(word)

    @cached_property
    def _bpe(self) -> Tokenizer:
        from tokenizers import Tokenizer, models, pre_tokenizers

        ranks = {token: number for number, token in enumerate(self.tokens[len(SPECIAL) :])}
        merges = [merge for token in ranks if (merge := _last_merge(token, ranks))]
        model = models.BPE(vocab=self.numbers, merges=merges, unk_token=UNKNOWN)
        bpe = Tokenizer(model)
        bpe.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_BEGINS)
        return bpe


@lru_cache(maxsize=8)
def vocabulary(tokens: tuple[str, ...]) -> Vocabulary:
    """The vocabulary of these tokens, made once."""
    return Vocabulary(tokens)


def word_vocabulary(captions: Iterable[str], *, min_count: int) -> tuple[str, ...]:
    """The words of normalised captions that come so often or more, commonest first."""
    counts = Counter(word for caption in captions for word in caption.split())
    words = sorted((word for word, count in counts.items() if count >= min_count), key=lambda word: (-counts[word], word))
    return (*SPECIAL, *(word for word in words if word not in SPECIAL))


def bpe_vocabulary(captions: Iterable[str], *, size: int) -> tuple[str, ...]:
    """At most ``size`` tokens, the special ones included: the letters of normalised captions, and what joins most often."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE(unk_token=UNKNOWN))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_BEGINS)
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(SPECIAL), show_progress=False)
    bpe.train_from_iterator(captions, trainer)
    numbers = bpe.get_vocab()
    return tuple(sorted(numbers, key=lambda token: numbers[token]))


def _last_merge(token: str, ranks: dict[str, int]) -> tuple[str, str] | None:
    """The two parts that a token was joined of, by joining what comes earlier in the list first; None for a letter."""
    parts = list(token)
    while len(parts) > 2:
        joined = [ranks.get(a + b, len(ranks)) for a, b in pairwise(parts)]
        first = joined.index(min(joined))
        parts[first : first + 2] = [parts[first] + parts[first + 1]]
    return (parts[0], parts[1]) if len(parts) == 2 else None
