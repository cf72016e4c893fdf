"""The decoder as a model of language: perplexity per word on captions of MSVD's validation clips, against a 3-gram in the same run.

    python benchmarks/language.py DATA [--epochs 8] [--seed 0] [--inner]

DATA is a folder with captions_train.tsv and captions_val.tsv (video_id<TAB>caption). The decoder sees no video: its memory is one frame of
zeros. The 3-gram is interpolated Kneser-Ney, its discounts by the counts of counts (Ney, Essen and Kneser 1994). Both have the words that
come twice or more in the training captions, one token for all others, and the end of a caption, which counts as a word. ``--inner`` judges
both on every twelfth training clip instead, and learns from the others: by this the settings below were chosen.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from machine import machine
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from reelscribe.models.decoder import BEGIN, UNKNOWN, AttendingDecoder, Memory
from reelscribe.pipeline.vocabulary import Vocabulary, normalise, word_vocabulary

HIDDEN, EMBEDDING, BATCH = 320, 192, 64
RATE, DROPOUT, DECAY, AVERAGE = 2e-3, 0.5, 0.01, 0.995
Caption = tuple[int, ...]  # with its end


def read(file: Path) -> list[tuple[str, str]]:
    """Each caption with its clip."""
    parts = [line.partition("\t") for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [(clip, normalise(caption)) for clip, _, caption in parts]


class KneserNey:
    """Interpolated Kneser-Ney of order 3."""

    def __init__(self, captions: Sequence[Caption], num_words: int) -> None:
        self.num_words = num_words
        self.counts: list[dict[Caption, Counter[int]]] = [defaultdict(Counter) for _ in range(3)]  # by length of the history
        for caption in captions:
            said = (BEGIN, BEGIN, *caption)
            for i in range(2, len(said)):
                self.counts[2][said[i - 2 : i]][said[i]] += 1
        for order in (1, 0):  # lower orders count in how many different histories a word came
            for history, following in self.counts[order + 1].items():
                for word in following:
                    self.counts[order][history[1:]][word] += 1
        self.discounts = [self._discount(counts) for counts in self.counts]
        self.totals = [{history: following.total() for history, following in counts.items()} for counts in self.counts]

    @staticmethod
    def _discount(counts: dict[Caption, Counter[int]]) -> float:
        of = Counter(count for following in counts.values() for count in following.values())
        return of[1] / (of[1] + 2 * of[2])

    def probability(self, history: Caption, word: int) -> float:
        order = len(history)
        lower = self.probability(history[1:], word) if order else 1 / self.num_words
        following = self.counts[order].get(history)
        if not following:
            return lower
        total, discount = self.totals[order][history], self.discounts[order]
        return max(following[word] - discount, 0) / total + discount * len(following) / total * lower

    def perplexity(self, captions: Sequence[Caption]) -> float:
        logs = []
        for caption in captions:
            said = (BEGIN, BEGIN, *caption)
            logs += [math.log(self.probability(said[i - 2 : i], said[i])) for i in range(2, len(said))]
        return math.exp(-sum(logs) / len(logs))


def blind(decoder: AttendingDecoder, count: int) -> Memory:
    """A memory that holds nothing."""
    nothing = torch.zeros(count, 1, HIDDEN)
    return decoder.remember(nothing, torch.ones(count, dtype=torch.long), nothing[:, 0], None)


def batch_loss(decoder: AttendingDecoder, captions: Sequence[Caption]) -> tuple[Tensor, int]:
    """Summed over words, and how many."""
    targets = pad_sequence([torch.tensor(caption) for caption in captions], batch_first=True, padding_value=-100)
    before = torch.cat((torch.full((len(captions), 1), BEGIN), targets[:, :-1].clamp(min=0)), 1)
    scores = decoder(before, blind(decoder, len(captions)))
    return cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"), int((targets >= 0).sum())


@torch.no_grad()
def perplexity(decoder: AttendingDecoder, captions: Sequence[Caption]) -> float:
    decoder.eval()
    parts = [batch_loss(decoder, captions[i : i + 256]) for i in range(0, len(captions), 256)]
    decoder.train()
    return math.exp(sum(float(loss) for loss, _ in parts) / sum(words for _, words in parts))


def batches(captions: Sequence[Caption]) -> list[list[Caption]]:
    """Captions of like lengths together, which wastes no steps; all in an order that is drawn anew."""
    order = sorted(torch.randperm(len(captions)).tolist(), key=lambda i: len(captions[i]))
    cut = [[captions[i] for i in order[start : start + BATCH]] for start in range(0, len(order), BATCH)]
    return [cut[i] for i in torch.randperm(len(cut)).tolist()]


def train(captions: Sequence[Caption], num_words: int, epochs: int, seed: int) -> AttendingDecoder:
    """The average of the weights over about the last 200 steps."""
    torch.manual_seed(seed)
    decoder = AttendingDecoder(
        num_tokens=num_words,
        hidden_size=HIDDEN,
        embedding_size=EMBEDDING,
        cell="lstm",
        attention="dot",
        cell_channels=None,
        coverage=False,
        dropout=DROPOUT,
    )
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=RATE, weight_decay=DECAY)
    steps = epochs * -(-len(captions) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.05, cycle_momentum=False)
    average = AveragedModel(decoder, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE))
    for epoch in range(epochs):
        total = words = 0.0
        for batch in batches(captions):
            loss, count = batch_loss(decoder, batch)
            optimizer.zero_grad()
            (loss / count).backward()
            torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(decoder)
            total, words = total + loss.item(), words + count
        print(f"epoch {epoch + 1}: training perplexity {math.exp(total / words):.2f}", flush=True)
    found: AttendingDecoder = average.module
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inner", action="store_true")
    given = parser.parse_args()
    known, held_out = read(given.data / "captions_train.tsv"), read(given.data / "captions_val.tsv")
    if given.inner:
        inner = set(sorted({clip for clip, _ in known})[::12])
        known, held_out = [one for one in known if one[0] not in inner], [one for one in known if one[0] in inner]
    learnt, judged = ([caption for _, caption in some] for some in (known, held_out))
    words = Vocabulary(word_vocabulary(learnt, min_count=2))
    train_captions, val_captions = ([words.encode(caption) for caption in captions] for captions in (learnt, judged))
    num_words = len(words.tokens)
    unknown = sum(token == UNKNOWN for caption in val_captions for token in caption) / sum(map(len, val_captions))
    print(machine("torch"))
    print(f"{len(learnt)} captions to learn from, {len(judged)} to judge, {num_words} tokens, {unknown:.1%} unknown")
    trigram = KneserNey(train_captions, num_words).perplexity(val_captions)
    found = perplexity(train(train_captions, num_words, given.epochs, given.seed), val_captions)
    print(f"\n| model | perplexity per word |\n|---|---|\n| Kneser-Ney 3-gram | {trigram:.2f} |\n| decoder (lstm {HIDDEN}) | {found:.2f} |")
    print(f"\nthe decoder's is {1 - found / trigram:.1%} lower")


if __name__ == "__main__":
    main()
