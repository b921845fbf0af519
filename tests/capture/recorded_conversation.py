"""One conversation for all tests of captures: every golden frame, both ways, in segments that respect no frame."""

from fixtures.golden_messages import frames
from zeitgeist.capture.write import Sent
from zeitgeist.core.wire.frame import Frame, encode_frame

__all__ = ["SEGMENT_BYTES", "A", "B", "conversation", "sent_frames"]

A, B = ("10.0.0.1", 40_000), ("10.0.0.2", 7_420)
SEGMENT_BYTES = 61
"""A prime: no header, and hardly a payload, ends where a segment ends."""


def sent_frames() -> list[tuple[tuple[tuple[str, int], tuple[str, int]], Frame]]:
    """(ends, frame) in the order sent: by turns, three at a time."""
    made = frames()
    return [((A, B) if place // 3 % 2 == 0 else (B, A), frame) for place, frame in enumerate(made)]


def conversation() -> list[Sent]:
    """The same as bytes: what goes one way in a row is one write, as a socket sees it."""
    sent: list[Sent] = []
    for place, (ends, frame) in enumerate(sent_frames()):
        data = encode_frame(frame)
        if sent and sent[-1].ends == ends:
            data = sent.pop().data + data
        sent.append(Sent(time=1_000.0 + place, ends=ends, data=data))
    return sent
