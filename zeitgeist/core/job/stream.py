"""A job's tokens as they pass one place: each index once, in order, a bounded number ahead (E4, G4).

Law: a token is new only when its index is the next; a lower one is a duplicate and changes nothing; a higher one is a
gap and ends the attempt. Between what came and what was taken there are never more than a window of tokens. What has
not been taken is kept, so that it can be given again.
"""

from typing import Literal

import msgspec

from zeitgeist.core.effects import PayloadRef

__all__ = ["Stream"]


class Stream(msgspec.Struct, kw_only=True):
    """next: the index to come; taken: every index below it was taken; kept: contents from taken to next, in order."""

    window: int
    next: int = 0
    taken: int = 0
    kept: dict[int, PayloadRef] = {}

    def offer(self, index: int, content: PayloadRef) -> Literal["new", "duplicate", "gap", "overrun"]:
        """A token came from below."""
        if index < self.next:
            return "duplicate"
        if index > self.next:
            return "gap"
        if index - self.taken >= self.window:
            return "overrun"
        self.kept[index] = content
        self.next += 1
        return "new"

    def take(self, next: int) -> list[PayloadRef] | None:
        """Everything below next was taken above; the contents that nobody needs now. None: so many never came."""
        if next > self.next:
            return None
        if next <= self.taken:
            return []
        pop = self.kept.pop
        done = [pop(index) for index in range(self.taken, next)] if next > self.taken + 1 else [pop(self.taken)]
        self.taken = next
        return done

    def drop(self) -> list[PayloadRef]:
        """Nobody will take any of them."""
        kept, self.kept, self.taken = list(self.kept.values()), {}, self.next
        return kept
