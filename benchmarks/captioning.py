"""Captions per second, as ratios to a plain loop in the same run.

    python benchmarks/captioning.py [--rounds 3]

The plain loop is what one writes first: clip by clip, for each next word the decoder runs over all words so far, and for a beam this is
done for each of its sentences. Ours steps all clips and sentences at once from their states. Both say the same sentences (checked). The
clips are random states and cells, as the decoder gets them; every caption has 12 words of a vocabulary of 3000.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from machine import machine
from torch import Tensor

from reelscribe.models.backbone import Seen
from reelscribe.models.captioner import Captioner
from reelscribe.models.decoder import BEGIN, END, UNKNOWN

FRAMES, HIDDEN, WORDS, LENGTH = 16, 256, 3000, 12


def plain(model: Captioner, seen: Seen, clip: int, beam: int) -> list[int]:
    """The best sentence of one clip; every step begins anew."""
    one, lengths = Seen(*(part[clip : clip + 1] for part in seen)), torch.tensor([FRAMES])
    sentences: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(LENGTH):
        longer = []
        for total, words in sentences:
            scores = model.forward_head(one, lengths, torch.tensor([[*words, END]]))[0, -1].log_softmax(0)
            scores[[BEGIN, UNKNOWN, END]] = -torch.inf
            best, following = scores.topk(beam)
            longer += [(total + float(b), [*words, int(f)]) for b, f in zip(best, following, strict=True)]
        sentences = sorted(longer, key=lambda found: -found[0])[:beam]
    ends = [
        (total + float(model.forward_head(one, lengths, torch.tensor([[*words, END]]))[0, -1].log_softmax(0)[END]), words)
        for total, words in sentences
    ]
    return max(ends)[1]


def seconds(run: Callable[[], object], rounds: int) -> float:
    """The fastest of some rounds, which other work disturbs least."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    model = Captioner(num_tokens=WORDS, frame_size=(64, 64), encoder="tiny", weights="none", stride=16, hidden_size=HIDDEN).eval()
    torch.nn.init.normal_(model.decoder.embedding.weight, std=0.5)  # untrained, it would find all words alike
    draw = torch.randn
    seen = Seen(draw(32, FRAMES, HIDDEN), draw(32, FRAMES, model.cell_channels, *model.grid_size))
    print(machine("torch"))
    print("\n| search | clips at once | captions/s | plain loop | ratio |\n|---|---|---|---|---|")
    for beam in (1, 5):
        loop = seconds(lambda beam=beam: [plain(model, seen, clip, beam) for clip in range(4)], rounds) / 4
        for batch in (1, 32):
            some, lengths = Seen(*(part[:batch] for part in seen)), torch.full((batch,), FRAMES)

            def ours(some: Seen = some, lengths: Tensor = lengths, beam: int = beam) -> list[list[int]]:
                found = model.say(some, lengths, beam=beam, min_length=LENGTH, max_length=LENGTH, length_penalty=0)
                return [list(one[0].tokens) for one in found]

            assert ours()[0] == plain(model, seen, 0, beam)
            each = seconds(ours, rounds) / batch
            name = "greedy" if beam == 1 else f"beam of {beam}"
            print(f"| {name} | {batch} | {1 / each:.0f} | {1 / loop:.1f} | {loop / each:.1f} |", flush=True)


if __name__ == "__main__":
    main()
