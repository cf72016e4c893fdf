"""Video captioning: a frame encoder, a recurrent core, and a decoder that attends to what they saw.

frames -> hidden states (B, T, hidden) and cells (B, T, C, h, w), see Backbone
  -> decoder   scores of each word (B, L, tokens), looking at moments and, where the grid is kept, at places before each word
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reelscribe.models.backbone import Backbone, Seen
from reelscribe.models.beam import Hypothesis, Rules, State, Step, beam_search, greedy, sample
from reelscribe.models.decoder import BEGIN, END, SPECIAL_TOKENS, UNKNOWN, AttendingDecoder, Memory


class Captioner(Backbone):
    """Encoder + recurrent core + attending decoder -> sentences of tokens.

    Tokens are numbered from 0: END, BEGIN, UNKNOWN, then words. ``decoder`` is ``gru`` or ``lstm``, ``attention`` ``additive`` or ``dot``;
    ``attend_space`` looks at cells of the grid too. ``scheduled_sampling`` may be set at any time: in training it is the share of words
    that the decoder hears from itself. ``backbone`` are the options of Backbone; its readout gives the decoder's first state.
    Raises ValueError for a name or a number that cannot be.
    """

    def __init__(
        self,
        *,
        num_tokens: int,
        decoder: str = "gru",
        attention: str = "dot",
        attend_space: bool = True,
        embedding_size: int = 128,
        coverage: bool = False,
        **backbone: Any,
    ) -> None:
        super().__init__(**backbone)
        if num_tokens <= SPECIAL_TOKENS:
            raise ValueError(f"num_tokens={num_tokens}: expected more than the {SPECIAL_TOKENS} that are no words")
        self.require_summary()
        self.attend_space = attend_space
        self.scheduled_sampling = 0.0
        self.decoder = AttendingDecoder(
            num_tokens=num_tokens,
            hidden_size=self.readout.hidden_size,
            embedding_size=embedding_size,
            cell=decoder,
            attention=attention,
            cell_channels=self.cell_channels if attend_space else None,
            coverage=coverage,
            dropout=self.output_dropout.rate,
        )

    @property
    def causal(self) -> bool:
        """False: a sentence is of a whole clip, and is not said frame by frame."""
        return False

    def forward_features(self, grid: Tensor, lengths: Tensor, gaps: Tensor | None = None) -> Seen:
        """Grid (B, T, D, h, w) of any float type -> states and cells; those past a clip's length mean nothing."""
        return self._advance(grid, None, lengths=lengths, gaps=gaps)[0]

    def remember(self, seen: Seen, lengths: Tensor) -> Memory:
        """What the decoder looks at, of the first lengths (B,) frames."""
        summary, _ = self.readout(seen.states, lengths)
        return self.decoder.remember(seen.states, lengths, summary, seen.cells if self.attend_space else None)

    def forward_head(self, seen: Seen, lengths: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Scores (B, L, num_tokens) of each of the tokens (B, L) after those before it; without tokens those of the first word (B, 1, ...).

        What stands behind a sentence's end may be any number, also a negative one.
        """
        if tokens is None:
            tokens = torch.full((len(lengths), 1), END, device=lengths.device)
        begin = torch.full_like(tokens[:, :1], BEGIN)
        before = torch.cat((begin, tokens[:, :-1].clamp(min=END)), 1)
        scores: Tensor = self.decoder(before, self.remember(seen, lengths), self._own(before))
        return scores

    def forward(self, frames: Tensor, lengths: Tensor, tokens: Tensor | None = None, gaps: Tensor | None = None) -> Tensor:
        """RGB bytes (B, T, 3, H, W), of which the first lengths (B,) count -> scores, as forward_head gives them."""
        return self.forward_head(self.forward_features(self.encode(frames), lengths, gaps), lengths, tokens)

    @torch.no_grad()
    def say(self, seen: Seen, lengths: Tensor, *, beam: int = 1, **rules: Any) -> list[list[Hypothesis]]:
        """Sentences for each clip, best first: as many as the beam is wide, one for a beam of 1. ``rules`` are those of Rules."""
        memory, wanted = self.remember(seen, lengths), _rules(rules)
        if beam == 1:
            found = greedy(self._stepping(memory), self.decoder.first_state(memory), count=len(lengths), rules=wanted)
            return [[one] for one in found]
        return beam_search(
            self._stepping(memory.repeated(beam)), self.decoder.first_state(memory), count=len(lengths), width=beam, rules=wanted
        )

    @torch.no_grad()
    def imagine(
        self, seen: Seen, lengths: Tensor, *, seed: int, temperature: float = 1.0, top_p: float = 1.0, **rules: Any
    ) -> list[Hypothesis]:
        """A sentence for each clip, drawn at random from a seed."""
        memory = self.remember(seen, lengths)
        return sample(
            self._stepping(memory),
            self.decoder.first_state(memory),
            count=len(lengths),
            rules=_rules(rules),
            temperature=temperature,
            top_p=top_p,
            generator=torch.Generator().manual_seed(seed),
        )

    def _stepping(self, memory: Memory) -> Step:
        """One step of sentences that look at these clips."""

        def step(tokens: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
            scores, state, looked = self.decoder.step(tokens, state, memory)
            places = self.grid_size if self.attend_space else ()
            return scores.float().log_softmax(dim=1), state, looked.unflatten(2, places) if places else looked

        return step

    def _own(self, tokens: Tensor) -> Tensor | None:
        """Where the decoder hears itself (B, L); drawn for the whole batch, as dropout is, so that ranks stay in step.

        By a generator of its own: sentences are as long as the longest of a rank, and the dropout that follows must not depend on that.
        """
        if not self.training or not self.scheduled_sampling:
            return None
        offset, total = self.output_dropout.shard or (0, len(tokens))
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        draws = torch.rand(tokens.shape[1], total, generator=generator)[:, offset : offset + len(tokens)].T
        return (draws < self.scheduled_sampling).to(tokens.device)


def _rules(given: dict[str, Any]) -> Rules:
    return Rules(begin=BEGIN, end=END, never=(UNKNOWN,), **given)
