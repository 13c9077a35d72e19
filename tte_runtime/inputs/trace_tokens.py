"""Between a trace's text and its tokens, in one model's tokenizer and under its recipe. Knows no prompts."""

from __future__ import annotations

from collections.abc import Sequence

from tte_runtime.errors import TraceError
from tte_runtime.inputs.prompt import PromptRenderer


class TraceTokens:
    """Reads and writes the traces of one model.

    Args:
        renderer: the model's, with its tokenizer and recipe.
    """

    def __init__(self, renderer: PromptRenderer) -> None:
        self._tokenizer = renderer.tokenizer
        self._stop = frozenset(self._tokenizer.convert_tokens_to_ids(token) for token in renderer.recipe.stop)
        self._special = [token.content for token in self._tokenizer.added_tokens_decoder.values() if token.special]

    def body(self, ids: Sequence[int]) -> tuple[int, ...]:
        """A trace without the token that stopped it."""
        return tuple(ids[:-1] if ids and ids[-1] in self._stop else ids)

    def text(self, ids: Sequence[int], *, plain: bool = False) -> str:
        """A trace as text, without the token that stopped it; `plain` leaves out other special tokens too."""
        return str(self._tokenizer.decode(self.body(ids), skip_special_tokens=plain))

    def ids(self, text: str) -> tuple[int, ...]:
        """The tokens of a trace that came as text; raises TraceError where it has special tokens."""
        for token in self._special:  # an endpoint could write placeholders of pictures, or end the turn
            if token in text:
                raise TraceError(f"the trace contains the special token {token!r}. Remove it or write it differently.")
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def check(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Token ids that a user gave; raises TraceError for one that the tokenizer does not have."""
        size = len(self._tokenizer)
        for token in ids:
            if not 0 <= token < size:
                raise TraceError(f"a trace of token ids must have ids in 0..{size - 1}, got {token}.")
        return tuple(ids)

    def same_as(self, other: TraceTokens) -> bool:
        """Every id means the same token in both vocabularies."""
        return bool(self._tokenizer.get_vocab() == other._tokenizer.get_vocab())
