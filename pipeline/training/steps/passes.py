"""The passes of one optimizer step: a worker's clips go forward and back in parts, and long clips in chunks of frames.

However they are cut, what adds up is the gradient of one loss: the sum over clips of each clip's loss.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from reelscribe.pipeline.config import TrainingConfig
from reelscribe.pipeline.training.steps.batches import Batch
from reelscribe.pipeline.training.steps.losses import CaptionLoss, Loss

if TYPE_CHECKING:
    from reelscribe.models.backbone import RecognizerState, Seen
    from reelscribe.models.captioner import Captioner
    from reelscribe.models.recognizer import Recognizer
    from reelscribe.pipeline.training.steps.self_critical import SelfCritic


class ArrayNetwork(nn.Module):
    """The network as the loop calls it, on frames or on features that were computed before."""

    def __init__(self, model: Recognizer | Captioner) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        inputs: Tensor,
        lengths: Tensor,
        gaps: Tensor,
        state: RecognizerState | None = None,
        *,
        carry: bool = False,
        heard: Tensor | None = None,
    ) -> tuple[Tensor, RecognizerState | None]:
        """Inputs (B, T, ...) and seconds since the frame before (B, T), used where the model takes them -> logits (B, C).

        With ``carry`` those of all frames since the clip's first, and the state after them. Of a captioner the logits are those of each of
        the tokens ``heard`` (B, L), after those before it.
        """
        from reelscribe.models.captioner import Captioner

        stored = inputs.dtype != torch.uint8
        given = gaps if self.model.takes_gaps else None
        if isinstance(self.model, Captioner):
            return self.model.forward_head(self.features(inputs, lengths, gaps), lengths, heard), None
        if carry and stored:
            return self.model.extend_grid(inputs.float(), lengths, state, given)
        if carry:
            return self.model.extend(inputs, state, given, lengths)
        grid = inputs.float() if stored else self.model.encode(inputs)
        return self.model.forward_head(self.model.forward_features(grid, lengths, given), lengths), None

    def features(self, inputs: Tensor, lengths: Tensor, gaps: Tensor) -> Seen:
        """What a captioner knows of clips."""
        model = cast("Captioner", self.model)
        grid = inputs.float() if inputs.dtype != torch.uint8 else model.encode(inputs)
        return model.forward_features(grid, lengths, gaps if model.takes_gaps else None)


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Neighbouring frames of the clips of a batch."""

    frames: slice
    lengths: Tensor  # (B,) frames of each clip in it; 1 for a clip that ended before
    weights: Tensor  # (B,) share of the loss at its end in the clip's loss; 0 for a clip that ended before


def chunks(lengths: Tensor, size: int) -> list[Chunk]:
    """Clips of these lengths (B,) in chunks of ``size`` frames; 0 is one chunk.

    The label belongs to the clip, not to a frame, so the loss is taken at the end of every chunk, else all chunks but the last would
    learn nothing. A clip's weights grow with the frames seen so far and add up to 1: late answers know more (arXiv 1503.08909, 3.4).
    """
    longest = int(lengths.max())
    size = size or longest
    starts = torch.arange(0, longest, size)
    ends = torch.where(starts < lengths[:, None], torch.minimum(starts + size, lengths[:, None]), 0)  # (B, chunks)
    weights = ends / ends.sum(dim=1, keepdim=True)
    return [
        Chunk(frames=slice(start, start + size), lengths=(lengths - start).clamp(1, size), weights=weights[:, i])
        for i, start in enumerate(starts.tolist())
    ]


class Passes:
    """Forward and back over a worker's part of a global batch."""

    def __init__(self, network: nn.Module, model: Recognizer | Captioner, loss: Loss, config: TrainingConfig, device: torch.device) -> None:
        self.network, self.model, self.loss, self.config, self.device = network, model, loss, config, device
        self.critic: SelfCritic | None = None  # where there is one, captions are drawn and weighed instead of read

    def __call__(self, batch: Batch, *, scale: float, seed: int) -> Tensor:
        """Add the gradient of ``scale`` times the summed loss; returns the sums (2,) of loss and of score.

        Every pass starts from the same seed and draws dropout for the whole global batch, so that a clip has one mask, however it is cut.
        """
        sums = torch.zeros(2, device=self.device)
        parts = batch.split(self.config.accumulate)
        for part in parts:
            sums += self._part(part, scale=scale, seed=seed, last=part is parts[-1])
        return sums

    def _part(self, batch: Batch, *, scale: float, seed: int, last: bool) -> Tensor:
        """Truncated back-propagation through time (Williams and Peng 1990): the state goes on, the gradient ends with the chunk."""
        self.model.set_shard(batch.offset, batch.total)
        targets, gains, loss_of = self._wanted(batch, seed)
        sums = torch.zeros(2, device=self.device)
        state = None
        plan = chunks(batch.lengths, self.config.tbptt_frames)
        for chunk in plan:
            parts = batch.inputs[:, chunk.frames], chunk.lengths, batch.gaps[:, chunk.frames], chunk.weights
            inputs, lengths, gaps, weights = (tensor.to(self.device) for tensor in parts)
            torch.default_generator.manual_seed(seed)  # all that draws; torch.manual_seed also keeps a trace for each GPU that it awaits
            with self._averaging(last and chunk is plan[-1]):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
                    logits, state = self.network(inputs, lengths, gaps, state, carry=len(plan) > 1, **self._heard(targets))
                loss = (gains * weights * loss_of(logits, targets)).sum()
                (scale * loss).backward()
            state = _detached(state)
            ends = batch.lengths <= chunk.frames.stop  # and so this is the answer to the whole clip
            score = loss_of.score(logits.detach(), targets)[(weights > 0) & ends.to(self.device)].sum()
            sums += torch.stack([loss.detach(), score])
        return sums

    def _wanted(self, batch: Batch, seed: int) -> tuple[Tensor, Tensor | float, Loss]:
        """Targets, the weight of each clip, and the loss."""
        if self.critic is None:
            return batch.targets.to(self.device), 1.0, self.loss
        inputs, lengths, gaps = (t.to(self.device) for t in (batch.inputs, batch.lengths, batch.gaps))
        return *self.critic(ArrayNetwork(self.model), inputs, lengths, gaps, batch.clips, seed=seed), CaptionLoss()

    def _heard(self, targets: Tensor) -> dict[str, Tensor]:
        return {"heard": targets} if self.loss.teacher_forced else {}

    def _averaging(self, last: bool) -> AbstractContextManager[None]:
        """Gradients are averaged over workers once a step: in the last pass, which all of them have."""
        if isinstance(self.network, DistributedDataParallel) and not last:
            return self.network.no_sync()
        return nullcontext()


def _detached(state: RecognizerState | None) -> RecognizerState | None:
    """The state without its past."""
    return state and type(state)._make(part and tuple(tensor.detach() for tensor in part) for part in state)
