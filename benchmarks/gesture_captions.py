"""Gestures told in sentences: train a captioner on them, and see whether it names the right gesture.

    python benchmarks/gesture_captions.py LABELS.csv --out FOLDER [--seeds 0,1,2] [KEY=VALUE ...]

LABELS.csv has the columns path, label and split. Each clip gets five sentences, put together at random (seed 0) from ways to say who, does
and what; a caption names the gesture whose words are in it. Other keys override configs/gesture_captions.yaml.
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
from pathlib import Path

from machine import machine

from reelscribe.pipeline.config_files import load_config
from reelscribe.pipeline.console import progress
from reelscribe.pipeline.training.job import run_training

WHO = ("a finger", "a hand", "someone", "the person")
DOES = ("draws", "makes", "traces")
WHAT = {
    "caret": ("a caret", "a roof that is open below"),
    "circle_counter_clockwise": ("a circle against the clock", "a ring that turns to the left"),
    "delete": ("a delete mark", "strokes that cross out"),
    "down": ("a line down", "a stroke from top to bottom"),
    "left": ("a line to the left side", "a stroke from right to left"),
    "right": ("a line to the right side", "a stroke from left to right"),
    "square": ("a square", "four equal sides"),
    "star": ("a star", "five points"),
    "tick": ("a tick", "a check mark"),
    "unclassified": ("something else", "no known sign"),
    "up": ("a line up", "a stroke from bottom to top"),
}


def named(caption: str) -> list[str]:
    """The gestures whose words are in a caption."""
    return [label for label, words in WHAT.items() if any(f" {one} " in f"{caption} " for one in words)]


def write_captions(labels: Path, file: Path) -> None:
    draw = random.Random(0)
    with labels.open(newline="", encoding="utf-8") as text:
        rows = list(csv.DictReader(text))
    with file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        writer.writerow(["path", "split", "caption"])
        for row in rows:
            ways = [f"{who} {does} {what}" for who in WHO for does in DOES for what in WHAT[row["label"]]]
            for caption in draw.sample(ways, 5):
                writer.writerow([(labels.parent / row["path"]).resolve(), row["split"], caption])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_intermixed_args()
    given.out.mkdir(parents=True, exist_ok=True)
    write_captions(given.labels, given.out / "captions.csv")
    print(machine())
    print("\n| seed | CIDEr-D | BLEU-4 | named right | exact match |\n|---|---|---|---|---|")
    rows = []
    for seed in map(int, given.seeds.split(",")):
        fixed = [f"data.manifest={given.out / 'captions.csv'}", f"output={given.out / 'runs'}", f"seed={seed}"]
        found = run_training(load_config("gesture_captions", [*fixed, *given.overrides]), progress=progress).evaluation
        truth = {video_id: named(row["captions"][0]) for video_id, row in found.truth.items()}
        right = statistics.fmean(named(said.label) == truth[video_id] for video_id, said in found.captions().items())
        metrics = found.scores.metrics
        rows.append((metrics["cider"], metrics["bleu4"], right, metrics["exact_match"]))
        print(f"| {seed} | " + " | ".join(f"{value:.3f}" for value in rows[-1]) + " |", flush=True)
    if len(rows) > 1:
        means = " | ".join(f"{statistics.fmean(column):.3f} ± {statistics.stdev(column):.3f}" for column in zip(*rows, strict=True))
        print(f"| all | {means} |")


if __name__ == "__main__":
    main()
