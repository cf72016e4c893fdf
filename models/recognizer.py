"""Video recognition with a frame encoder and a recurrent core.

frames -> hidden states (B, T, hidden), see Backbone
  -> readout      one vector a clip, or one up to each frame
  -> classifier   logits (B, classes) or (B, T, classes)

Everything but a bidirectional core is causal: ``step`` after t frames gives the logits of the whole-clip pass over these t frames.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reelscribe.models.backbone import Backbone, RecognizerState, refuse_sizes_below_one


class Recognizer(Backbone):
    """Encoder + recurrent core + readout -> class logits.

    With ``per_frame`` the logits are those up to each frame; ``backbone`` are the options of Backbone.
    Raises ValueError for a name or a number that cannot be.
    """

    def __init__(self, *, num_classes: int, per_frame: bool = False, **backbone: Any) -> None:
        super().__init__(**backbone)
        refuse_sizes_below_one(num_classes=num_classes)
        self.per_frame = per_frame
        self.classifier = nn.Linear(self.readout.hidden_size, num_classes)
        if not per_frame:
            self.require_summary()

    def forward_features(self, grid: Tensor, lengths: Tensor, gaps: Tensor | None = None) -> Tensor:
        """Grid (B, T, D, h, w) of any float type -> states (B, T, hidden); those past a clip's length mean nothing."""
        return self._advance(grid, None, lengths=lengths, gaps=gaps)[0].states

    def forward_head(self, states: Tensor, lengths: Tensor) -> Tensor:
        """States (B, T, hidden), of which the first lengths (B,) count -> logits (B, num_classes).

        With ``per_frame``: logits (B, T, num_classes) up to each frame; those past a clip's length mean nothing.
        """
        summary, _ = self.readout.running(states) if self.per_frame else self.readout(states, lengths)
        return self._classify(summary)

    def forward(self, frames: Tensor, lengths: Tensor, gaps: Tensor | None = None) -> Tensor:
        """RGB bytes (B, T, 3, H, W), of which the first lengths (B,) count -> logits, as forward_head gives them."""
        return self.forward_head(self.forward_features(self.encode(frames), lengths, gaps), lengths)

    def frame_logits(
        self, frames: Tensor, state: RecognizerState | None = None, gaps: Tensor | None = None
    ) -> tuple[Tensor, RecognizerState]:
        """What stepping would say after each of the next frames (B, T, 3, H, W): logits (B, T, num_classes), and the state after them."""
        grid, carried = self._encode(frames, state)
        logits, after = self.frame_logits_grid(grid, state, gaps)
        return logits, after._replace(**carried)

    def frame_logits_grid(
        self, grid: Tensor, state: RecognizerState | None = None, gaps: Tensor | None = None
    ) -> tuple[Tensor, RecognizerState]:
        """``frame_logits`` on encoded frames (B, T, D, h, w)."""
        seen, carried = self._continue(grid, state, gaps)
        summaries, readout = self.readout.running(seen.states, state.readout if state is not None else None)
        return self._classify(summaries), carried._replace(readout=readout)

    def extend(
        self,
        frames: Tensor,
        state: RecognizerState | None = None,
        gaps: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, RecognizerState]:
        """The next frames (B, T, 3, H, W) of running clips -> logits (B, num_classes) of all frames so far, and the state after them.

        Of the frames the first lengths (B,) >= 1 count, None is all; the state after a clip that ends before T means nothing.
        Raises ValueError for a bidirectional model.
        """
        if lengths is None:
            lengths = torch.full((len(frames),), frames.shape[1], device=frames.device)
        grid, carried = self._encode(frames, state)
        logits, after = self.extend_grid(grid, lengths, state, gaps)
        return logits, after._replace(**carried)

    def extend_grid(
        self, grid: Tensor, lengths: Tensor, state: RecognizerState | None = None, gaps: Tensor | None = None
    ) -> tuple[Tensor, RecognizerState]:
        """``extend`` on encoded frames (B, T, D, h, w)."""
        seen, carried = self._continue(grid, state, gaps)
        summary, readout = self.readout(seen.states, lengths, state.readout if state is not None else None)
        return self._classify(summary), carried._replace(readout=readout)

    def step(self, frame: Tensor, state: RecognizerState | None = None, gap: Tensor | None = None) -> tuple[Tensor, RecognizerState]:
        """The next frame (B, 3, H, W) of running clips -> logits (B, num_classes) of all frames so far, and the state after it."""
        return self.extend(frame[:, None], state, None if gap is None else gap[:, None])

    def _classify(self, summary: Tensor) -> Tensor:
        """(..., hidden) -> logits (..., num_classes)."""
        logits: Tensor = self.classifier(self.output_dropout(summary))
        return logits
