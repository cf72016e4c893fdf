"""What is kept of each validation clip, and the figures that follow: each worker answers for its part, then all know all answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from reelscribe.pipeline.bundle import num_outputs
from reelscribe.pipeline.captions import CaptionConfig
from reelscribe.pipeline.training.scores.captions import cider_by_clip
from reelscribe.pipeline.training.steps.batches import stack_targets
from reelscribe.pipeline.training.tasks import TASKS, References
from reelscribe.pipeline.vocabulary import vocabulary

if TYPE_CHECKING:
    from reelscribe.models.captioner import Captioner
    from reelscribe.pipeline.training.data import TrainingData
    from reelscribe.pipeline.training.steps.passes import ArrayNetwork


class Validation(ABC):
    """Answers of a network to clips, as rows of one tensor."""

    shape: tuple[int, ...]  # of a clip's answer

    @abstractmethod
    def answer(self, network: ArrayNetwork, inputs: Tensor, lengths: Tensor, gaps: Tensor, clip: int) -> Tensor:
        """One clip (1, T, ...) -> its row, which may be shorter than ``shape``."""

    @abstractmethod
    def metrics(self, answers: Tensor) -> dict[str, float]:
        """The figures of all rows (N, ...): val_loss, the task's own, and the one that is monitored."""


class LogitsValidation(Validation):
    """The logits of each clip, or of each of its frames."""

    def __init__(self, data: TrainingData, monitor: str) -> None:
        self.task, self.monitor = TASKS[data.task], monitor
        self.loss = self.task.loss(data.train.targets, data.labels)
        clips = data.val
        self.targets = stack_targets([clips.target(i, 0) for i in range(len(clips))])
        self.shape = (*(self.targets.shape[1:] if clips.per_frame else ()), num_outputs(data.labels))

    def answer(self, network: ArrayNetwork, inputs: Tensor, lengths: Tensor, gaps: Tensor, clip: int) -> Tensor:  # noqa: ARG002
        """Logits (C,), or (T, C)."""
        logits: Tensor = network(inputs, lengths, gaps)[0][0]
        return logits

    def metrics(self, answers: Tensor) -> dict[str, float]:
        """Loss and score of the logits."""
        return {
            "val_loss": self.loss(answers, self.targets).mean().item(),
            f"val_{self.task.figure}": self.loss.score(answers, self.targets).mean().item(),
        } | self.task.monitored(answers, self.targets, self.monitor)


class CaptionValidation(Validation):
    """Of each clip loss and score, mean over its captions, and the tokens that the network says without help, the best each time."""

    def __init__(self, data: TrainingData, rules: CaptionConfig) -> None:
        self.references = cast("tuple[References, ...]", data.val.targets)
        self.loss = TASKS["caption"].loss(self.references, data.labels)
        self.words, self.rules = vocabulary(data.labels), rules.rules
        self.shape = (2 + rules.max_length,)

    def answer(self, network: ArrayNetwork, inputs: Tensor, lengths: Tensor, gaps: Tensor, clip: int) -> Tensor:
        """Loss, score, and tokens with zeros behind them, which are ends."""
        model = cast("Captioner", network.model)
        tokens = stack_targets(self.references[clip].tokens).to(inputs.device)
        seen, count = network.features(inputs, lengths, gaps), len(tokens)
        each = type(seen)(*(part.expand(count, *part.shape[1:]) for part in seen))
        logits = model.forward_head(each, lengths.expand(count), tokens)
        ((said,),) = model.say(seen, lengths, **self.rules)
        figures = [self.loss(logits, tokens).mean().item(), self.loss.score(logits, tokens).mean().item()]
        return torch.tensor([*figures, *said.tokens], device=inputs.device)

    def metrics(self, answers: Tensor) -> dict[str, float]:
        """Loss, share of right words, CIDEr-D, and the share of clips that got a caption which someone wrote so."""
        said = [self.words.decode(token for token in row if token) for row in answers[:, 2:].long().tolist()]
        captions = [those.captions for those in self.references]
        loss, score = answers[:, :2].mean(dim=0).tolist()
        exact = sum(one in those for one, those in zip(said, captions, strict=True))
        return {
            "val_loss": loss,
            "val_word_accuracy": score,
            "val_cider": float(cider_by_clip(said, captions).mean()),
            "val_exact_match": exact / len(said),
        }
