"""A batch whose loss or gradient is not a number: kept for a look, and said in words."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from reelscribe.pipeline.errors import TrainingError
from reelscribe.pipeline.training.steps.batches import Timed
from reelscribe.pipeline.training.steps.losses import Loss
from reelscribe.pipeline.training.steps.passes import ArrayNetwork

BAD_BATCH_FILE = "bad_batch.safetensors"
_MOST_NAMED = 16


@torch.no_grad()
def clip_losses(network: ArrayNetwork, clips: Sequence[Timed], targets: Tensor, loss: Loss) -> Tensor:
    """The loss (B,) of each clip by itself."""
    device = next(network.parameters()).device
    network.eval()
    losses = []
    for (array, gaps), target in zip(clips, targets, strict=True):
        target = target[None].to(device)
        heard = {"heard": target} if loss.teacher_forced else {}
        logits, _ = network(array[None].to(device), torch.tensor([len(array)], device=device), gaps[None].to(device), **heard)
        losses.append(loss(logits, target).cpu())
    return torch.cat(losses)


def keep(folder: Path, video_ids: Sequence[str], arrays: Sequence[Tensor], targets: Tensor, losses: Tensor) -> Path:
    """Write the clips' arrays as ``inputs.0`` and so on, ``targets`` and ``losses``; the video ids are in the metadata, as JSON.

    Every worker may write the same batch at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / BAD_BATCH_FILE
    temporary = file.with_suffix(f".{os.getpid()}")
    tensors = {f"inputs.{i}": array.contiguous() for i, array in enumerate(arrays)} | {"targets": targets, "losses": losses}
    save_file(tensors, temporary, metadata={"video_ids": json.dumps(list(video_ids), ensure_ascii=False)})
    temporary.replace(file)
    return file


def training_error(
    where: str, what: str, video_ids: Sequence[str], arrays: Sequence[Tensor], losses: Tensor, file: Path | None
) -> TrainingError:
    """``where`` and ``what`` went wrong, which clips are to blame, and what to do."""
    broken = [name for name, array in zip(video_ids, arrays, strict=True) if array.is_floating_point() and not array.isfinite().all()]
    lost = [name for name, value in zip(video_ids, losses.tolist(), strict=True) if not torch.isfinite(torch.tensor(value))]
    if broken:
        cause = f"the features of {_names(broken)} are not finite: take these clips out, or choose another model.encoder"
    elif lost and len(lost) < len(video_ids):
        cause = f"alone, {_names(lost)} gives no finite loss: look at these clips, or take them out"
    else:
        cause = "no clip stands out: lower training.learning_rate or training.clip_norm, or use training.precision=fp32"
    kept = f"; the batch is kept in {file}" if file else ""
    return TrainingError(f"{where}: {what}, so the weights were left as they were; {cause} (clips of the batch: {_names(video_ids)}){kept}")


def _names(video_ids: Sequence[str]) -> str:
    more = len(video_ids) - _MOST_NAMED
    return ", ".join(video_ids[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
