"""Prompts that the model has read, kept for whoever asked: the same words again skip the text encoder.

In: whose words they are, what reads them, the words. Out: the conditioning, from memory or from `read`, the same bits
either way. An entry is found by its own scope only (`Job.scope`: one a key), so that nobody learns from the time that
an answer took what others have drawn; a job without a scope keeps nothing. Bounded in bytes; the least recently used
go first. Safe to call from several threads.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

ENTRY_BYTES = 1024  # of an entry beside its tensors and its words


class Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


T = TypeVar("T", bound=Sized)


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What names a conditioning. LoRAs are no part of it: none reaches a text encoder (their keys for one are reported
    as unmatched), and a LoRA that did would have to be named here.
    """

    scope: str
    encoder: str  # the model whose text encoder reads, and the tokens that it reads at most
    prompt: str
    negative: str | None = None

    @property
    def nbytes(self) -> int:
        return ENTRY_BYTES + 4 * (len(self.prompt) + len(self.negative or ""))


class PromptCache(Generic[T]):
    """`max_bytes` 0: nothing is kept. `store`: what becomes of a conditioning before it is, say a copy elsewhere."""

    def __init__(self, max_bytes: int, *, store: Callable[[T], T] = lambda made: made) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Words, T] = OrderedDict()
        self._bytes = 0
        self._hits = 0
        self._misses = 0
        self._lock = threading.Lock()

    def get(self, words: Words, read: Callable[[], T]) -> tuple[T, bool]:
        """→ (what `read` returns, or what `store` made of it earlier; whether it was here)."""
        if not words.scope or not self._max_bytes:
            return read(), False
        with self._lock:
            found = self._entries.get(words)
            if found is not None:
                self._entries.move_to_end(words)
                self._hits += 1
                return found, True
            self._misses += 1
        made = read()  # unlocked: it takes its time
        self._keep(words, self._store(made))
        return made, False

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    @property
    def counters(self) -> dict[str, int]:
        """Hits and misses since it was made; entries and bytes now."""
        with self._lock:
            return {
                "hits": self._hits,
                "misses": self._misses,
                "entries": len(self._entries),
                "bytes": self._bytes,
            }

    def _keep(self, words: Words, made: T) -> None:
        size = words.nbytes + made.nbytes
        if size > self._max_bytes:
            return
        with self._lock:
            if words in self._entries:
                return
            self._entries[words] = made
            self._bytes += size
            while self._bytes > self._max_bytes:
                oldest, value = self._entries.popitem(last=False)
                self._bytes -= oldest.nbytes + value.nbytes
