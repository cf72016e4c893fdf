"""What a captioner is, how it learns its words, and how it speaks: the settings of ``caption`` in a config."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reelscribe.pipeline.vocabulary import SPECIAL, bpe_vocabulary, word_vocabulary


class CaptionConfig(BaseModel):
    """For task=caption alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # words
    vocabulary: Literal["words", "bpe"] = Field(default="words", description="whole words, or pieces of words, of the training captions")
    min_count: int = Field(default=2, ge=1, description="of a word in the training captions, to be in the vocabulary")
    bpe_size: int = Field(default=2000, ge=100, description="pieces at most")
    # network
    decoder: Literal["gru", "lstm"] = "gru"
    attention: Literal["additive", "dot"] = "dot"
    attend_space: bool = Field(default=True, description="look at cells of the grid too, not at moments alone")
    embedding_size: int = Field(default=128, ge=1)
    coverage: bool = Field(default=False, description="what was looked at already weighs in where to look next")
    # sentences
    beam: int = Field(default=5, ge=1, description="sentences followed at once, and given as the best; 1 takes the best word each time")
    length_penalty: float = Field(default=1.0, ge=0, description="power of the length that log-probabilities are divided by")
    no_repeat_ngram: int = Field(default=0, ge=0, description="no run of so many tokens twice; 0 allows all")
    min_length: int = Field(default=1, ge=0, description="tokens")
    max_length: int = Field(default=20, ge=1, description="tokens")
    temperature: float = Field(default=0.0, ge=0, description="above 0 the sentences are drawn at random, from the clip's own seed")
    top_p: float = Field(default=1.0, gt=0, le=1, description="draw from the likeliest tokens that have this probability together")

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        if self.min_length > self.max_length:
            raise ValueError(f"min_length={self.min_length} is more than max_length={self.max_length}")
        if self.top_p < 1 and not self.temperature:
            raise ValueError(f"top_p={self.top_p} is for sentences drawn at random; set temperature above 0")
        return self

    @property
    def network(self) -> dict[str, Any]:
        """The keywords of the captioner's own parameters."""
        return self.model_dump(include={"decoder", "attention", "attend_space", "embedding_size", "coverage"})

    @property
    def rules(self) -> dict[str, Any]:
        """What a sentence may be, as models.beam.Rules takes it."""
        return self.model_dump(include={"length_penalty", "no_repeat_ngram", "min_length", "max_length"})

    def learn_tokens(self, captions: Iterable[str]) -> tuple[str, ...]:
        """The vocabulary of normalised captions. Raises ValueError where it has no word."""
        if self.vocabulary == "bpe":
            tokens = bpe_vocabulary(captions, size=self.bpe_size)
        else:
            tokens = word_vocabulary(captions, min_count=self.min_count)
        if len(tokens) == len(SPECIAL):
            raise ValueError(f"no word of the training captions comes {self.min_count} times: lower caption.min_count")
        return tokens
