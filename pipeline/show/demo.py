"""The demo's one screen."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING

from reelscribe.pipeline.console import print_json, say
from reelscribe.pipeline.show.training import how_to_look

if TYPE_CHECKING:
    from reelscribe.pipeline.demo import DemoResult


def demo(result: DemoResult, *, as_json: bool) -> None:
    """The demo's one screen."""
    from reelscribe.pipeline.report.page import REPORT_FILE

    job, test, shuffled = result.labelling, result.test.scores.metrics, result.shuffled.scores.metrics
    if as_json:
        print_json(
            {
                "folder": result.folder,
                "model": result.training.model_uri,
                "tracking_uri": result.training.tracking_uri,
                "test": test,
                "test_shuffled": shuffled,
                "labelling": asdict(job),
                "right": result.right,
                "report": f"{job.out}/{REPORT_FILE}",
            }
        )
        return
    failed = ", ".join(f"{count} {failure}" for failure, count in job.failed_by_class.items())
    where = f"--tracking-uri {shlex.quote(result.training.tracking_uri)}"
    words, figure = result.figure_words, result.figure
    if figure == "top1":
        say(f"Everything is in {result.folder}/; the classes differ only in the order of their frames.\n")
        say(f"test clips, never seen before    {words} {test[figure]:.2f} on {test['clips']:.0f} clips")
        say(f"  always the commonest class     {words} {test['majority']:.2f}")
    else:
        say(f"Everything is in {result.folder}/; some shapes of a colour never moved that way in a training clip.\n")
        say(f"sentences never seen before      {words} {test[figure]:.2f} on {test['clips']:.0f} clips")
    say(f"  same model, frames shuffled    {words} {shuffled[figure]:.2f}")
    say(f"training clips left out          {len(result.training.failures)} (broken files)")
    say(f"new videos labelled              {job.labelled} of {job.total}, {result.right} of them right")
    say(f"new videos that failed           {job.failed}{failed and f': {failed}'}\n")
    say(f"report    {job.out}/{REPORT_FILE}")
    say(f"model     reelscribe registry show {result.training.model_uri} {where}")
    say(f"runs      {how_to_look(result.training.tracking_uri)}")
    say(f"predict   reelscribe predict {result.training.model_uri} VIDEO {where}")
