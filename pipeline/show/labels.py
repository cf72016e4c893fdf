"""Labels, predictions and jobs in words for people, or as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from reelscribe.pipeline.console import print_json, print_table, say
from reelscribe.pipeline.labeling.stages import Failed
from reelscribe.pipeline.show.predictions import prediction

if TYPE_CHECKING:
    from reelscribe.pipeline.answers import AnyPrediction
    from reelscribe.pipeline.labeling.estimate import Estimate
    from reelscribe.pipeline.labeling.predict import Answer
    from reelscribe.pipeline.labeling.status import JobStatus
    from reelscribe.pipeline.labeling.work import JobSummary
    from reelscribe.pipeline.runtimes.export import Exported


def labelling(summary: JobSummary, *, as_json: bool) -> None:
    """What a job came to, and where."""
    from reelscribe.pipeline.report.page import REPORT_FILE

    report = f"{summary.out}/{REPORT_FILE}"
    if as_json:
        print_json({**asdict(summary), "report": report})
        return
    speed = ""
    if summary.videos_per_s and summary.bound_by:
        rate = summary.video_s / summary.seconds  # hours in an hour
        speed = f", {summary.videos_per_s:.1f} rows/s, {rate:.1f} h of video/h, bound by {summary.bound_by}"
    earlier = f" ({summary.resumed} of them by earlier runs)" if summary.resumed else ""
    say(f"{summary.labelled} labelled, {summary.failed} failed, of {summary.total}{earlier} in {summary.seconds:.1f} s{speed}")
    for failure, count in summary.failed_by_class.items():
        say(f"  {count} {failure}")
    say(f"labels    {summary.out}/labels   failures {summary.out}/failures")
    say(f"report    {report}")


def estimate(found: Estimate, *, as_json: bool) -> None:
    """What a job will take."""
    if as_json:
        print_json(asdict(found))
        return
    failed = f", {found.sampled_failed} of them failed" if found.sampled_failed else ""
    say(f"from a sample of {found.sampled} videos{failed}:")
    say(f"videos    {found.videos}, {_time(found.video_s)} of video")
    say(f"time      {_time(found.seconds)}, the first label after {found.startup_s:.0f} s; bound by {found.bound_by}")
    say(f"          {_time(found.with_a_second_machine_s)} with a second machine like this one (--engine ray)")
    say(f"memory    {found.memory_mb} MB; {found.memory_limit_mb} MB if every decode worker takes all that --memory-mb allows")


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def job_status(status: JobStatus, *, as_json: bool) -> None:
    """A few lines."""
    if as_json:
        print_json(asdict(status))
        return
    done = status.labelled + status.failed
    share = f" ({100 * done / status.total:.1f} %)" if status.total else ""
    who = f" by process {status.holder['pid']} on {status.holder['host']}" if status.holder else ""
    say(f"{status.state}{who}: {done} of {status.total}{share}, {status.labelled} labelled, {status.failed} failed")
    for failure, number in status.failed_by_class.items():
        say(f"  {number} {failure}")
    if status.rows_per_s and status.seconds_left is not None:
        say(f"{status.rows_per_s:.1f} rows/s, {_time(status.seconds_left)} left")
    if status.updated:
        say(f"last committed {status.updated:%Y-%m-%d %H:%M:%S} UTC")
    if status.state == "stopped":
        say("the command that it was started with goes on with it")


def predictions(answers: list[Answer], *, as_json: bool) -> None:
    """One line a video."""
    if as_json:
        print_json([_answer(answer) for answer in answers])
        return
    rows: list[tuple[str, str, str]] = []
    for answer in answers:
        video, outcome = answer.video, answer.outcome
        name = video.uri if video.window is None else f"{video.uri} {video.start_s:.2f} s to {video.end_s:.2f} s"
        rows.append((name, *_in_words(outcome)))
    print_table(["video", "answer", "then"], rows)


def _in_words(found: AnyPrediction | Failed) -> tuple[str, str]:
    """What the model says, and what it would say next; of a failure its class and what to do."""
    from reelscribe.pipeline.answers import FramesPrediction, LabelsPrediction, Prediction, ValuePrediction

    match found:
        case Failed():
            return found.failure, f"{found.cause}; {found.advice}"
        case Prediction():
            doubt = " (below the threshold)" if found.accepted is False else ""
            return f"{found.label} {found.confidence:.3f}{doubt}", _probabilities(found.top_k[1:3])
        case LabelsPrediction():
            given = [pair for pair in found.top_k if pair[0] in found.labels]
            return _probabilities(given) or "no label", _probabilities([pair for pair in found.top_k if pair not in given][:2])
        case ValuePrediction():
            return f"{found.value:.4g}", ""
        case FramesPrediction():
            return ", ".join(f"{s.start_s:.2f} s {s.label}" for s in found.segments), f"until {found.times_s[-1]:.2f} s"


def _probabilities(pairs: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{label} {probability:.3f}" for label, probability in pairs)


def _answer(answer: Answer) -> dict[str, Any]:
    from reelscribe.pipeline.answers import LabelsPrediction, Prediction

    video = answer.video
    part = {} if video.window is None else {"window": video.window, "start_s": video.start_s, "end_s": video.end_s}
    if isinstance(answer.outcome, Failed):
        failed = answer.outcome
        return {"uri": video.uri, **part, "failure": failed.failure, "cause": failed.cause, "advice": failed.advice}
    facts = {"uri": video.uri, **part, **prediction(answer.outcome)}
    if isinstance(answer.outcome, Prediction):
        facts["accepted"] = answer.outcome.accepted
    if isinstance(answer.outcome, Prediction | LabelsPrediction):
        facts["top_k"] = [{"label": label, "confidence": confidence} for label, confidence in answer.outcome.top_k]
    return facts


def exported(found: Exported, *, as_json: bool) -> None:
    """A folder that was written."""
    if as_json:
        print_json({"folder": str(found.folder), "format": found.format, "files": list(found.files)})
        return
    say(f"{found.folder}: {', '.join(found.files)}")
    say(f"label a video with it: python {found.folder / 'example.py'} VIDEO   (its example was run: equal)")
