"""Words and pieces of words: as the field's tokenizer writes them, and there and back."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from reelscribe.pipeline.vocabulary import SPECIAL, Vocabulary, bpe_vocabulary, normalise, word_vocabulary

# What Stanford's PTBTokenizer (3.4.1) gives with the options and the list of marks of pycocoevalcap 1.2.
PTB = {
    "A man isn't riding a horse.": "a man is n't riding a horse",
    "It's the dog's ball, not the dogs' ball!": "it 's the dog 's ball not the dogs ball",
    "She can't stop; he won't go.": "she ca n't stop he wo n't go",
    "They're playing - twice.": "they 're playing twice",
    'The man says "hello" to the woman...': "the man says hello to the woman",
    "I cannot see it & I'm gonna go": "i can not see it & i 'm gon na go",
    "A T-shirt costs $5 or 20%.": "a t-shirt costs $ 5 or 20 %",
    "Don't you? We'll see, I'd say you've lost.": "do n't you we 'll see i 'd say you 've lost",
    "A 3-year-old child eats 2.5 apples at 10:30.": "a 3-year-old child eats 2.5 apples at 10:30",
    "black/white and/or e-mail": "black/white and/or e-mail",
    "mother-in-law's kitchen": "mother-in-law 's kitchen",
    "a man, a plan: a canal; panama!": "a man a plan a canal panama",
    "two men -- one tall": "two men one tall",
    "éclair café naïve": "éclair café naïve",
    "a 2bean chili": "a 2bean chili",
}


@pytest.mark.parametrize("text", PTB)
def test_captions_are_written_as_the_field_does(text: str) -> None:
    assert normalise(text) == PTB[text]


@given(st.text(max_size=60))
def test_what_is_normalised_stays_so(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def captions(shared_data: Path, count: int) -> list[str]:
    lines = (shared_data / "msvd" / "captions_train.tsv").read_text(encoding="utf-8").splitlines()
    return [normalise(line.partition("\t")[2]) for line in random.Random(0).sample(lines, count)]


def test_words_are_those_that_come_often_enough() -> None:
    tokens = word_vocabulary(["a dog runs", "a dog sits", "a cat <unk> sits"], min_count=2)
    assert tokens == (*SPECIAL, "a", "dog", "sits")
    words = Vocabulary(tokens)
    assert words.encode("a cat sits") == (3, 2, 5, 0)
    assert words.decode([3, 4, 5]) == "a dog sits"
    assert words.can_say("dog")
    assert not words.can_say("cat")


def test_pieces_are_those_of_the_tokenizer_that_learnt_them(shared_data: Path) -> None:
    """The list of tokens alone gives the pieces that Hugging Face's own merges give."""
    learnt, held_out = captions(shared_data, 3000)[:2500], captions(shared_data, 3000)[2500:]
    tokens = bpe_vocabulary(learnt, size=500)
    assert len(tokens) == 500
    assert tokens == bpe_vocabulary(reversed(learnt), size=500)
    reference = Tokenizer(models.BPE(unk_token=SPECIAL[2]))
    reference.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=list(SPECIAL), show_progress=False)
    reference.train_from_iterator(learnt, trainer)
    pieces = Vocabulary(tokens)
    same = sum(pieces.encode(caption)[:-1] == tuple(reference.encode(caption).ids) for caption in held_out)
    assert same >= 0.99 * len(held_out)  # a piece that the trainer joins in two ways has one of them here
    spoken = [caption for caption in held_out if all(map(pieces.can_say, caption.split()))]
    assert len(spoken) > 0.95 * len(held_out)
    assert [pieces.decode(pieces.encode(caption)[:-1]) for caption in spoken] == spoken


@pytest.mark.parametrize("tokens", [("a", "b"), SPECIAL, (*SPECIAL, "a", "a")])
def test_what_is_no_vocabulary_is_refused(tokens: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="a vocabulary has <end>, <begin>, <unk> and words"):
        Vocabulary(tokens)
