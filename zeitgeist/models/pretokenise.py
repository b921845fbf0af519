"""Splitting text into the pieces that byte-pair merges may not cross, as GPT-2 does it (T).

The rule is the expression `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+`,
written as a scanner because Python's `re` knows no \\p classes. Characters that this Python's Unicode tables do not
assign count as symbols; engines with newer tables may see a letter there.
"""

import functools
import unicodedata

__all__ = ["BLANK_CHARACTERS", "gpt2_pieces"]

BLANK_CHARACTERS = frozenset(
    map(chr, [*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000])
)
"""Unicode White_Space. `str.isspace` also counts 0x1c to 0x1f, which the expression's \\s does not."""

CONTRACTIONS = ("'re", "'ve", "'ll", "'s", "'t", "'m", "'d")


@functools.lru_cache(maxsize=65_536)
def kind(character: str) -> str:
    """L letter, N number, S blank, P anything else."""
    if character in BLANK_CHARACTERS:
        return "S"
    category = unicodedata.category(character)[0]
    return category if category in "LN" else "P"


def gpt2_pieces(text: str) -> list[str]:
    """The pieces of text, in order; joined they are text."""
    kinds = [kind(character) for character in text]
    pieces: list[str] = []
    at = 0
    while at < len(text):
        stop = piece_end(text, kinds, at)
        pieces.append(text[at:stop])
        at = stop
    return pieces


def piece_end(text: str, kinds: list[str], at: int) -> int:
    """Where the piece that begins at `at` ends: contraction, word with one blank before it, or a run of blanks."""
    if text[at] == "'":
        for contraction in CONTRACTIONS:
            if text.startswith(contraction, at):
                return at + len(contraction)
    word = at + 1 if text[at] == " " and at + 1 < len(text) else at
    if kinds[word] != "S":
        return run_end(kinds, word)
    stop = run_end(kinds, at)
    if stop < len(text) and stop - at > 1:
        return stop - 1  # \s+(?!\S): the last blank stays with the word after it
    return stop


def run_end(kinds: list[str], at: int) -> int:
    """The end of the run of characters of the kind at `at`."""
    stop = at + 1
    while stop < len(kinds) and kinds[stop] == kinds[at]:
        stop += 1
    return stop
