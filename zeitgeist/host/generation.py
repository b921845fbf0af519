"""The loop around an engine: prefill, choose with the canonical sampler, decode, until a stop id or the limit.

Law: the token at an index depends on logits, parameters and absolute position only (`sampling.py`), so that a sequence
can move to another engine between two tokens. The stop id itself is delivered as the last token.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.host import messages as m
from zeitgeist.sampling import check_params, sample

if TYPE_CHECKING:
    from zeitgeist.host.service import Service

__all__ = ["generate"]


def generate(service: "Service", session: int, request: m.Generate, cancelled: Callable[[], bool]) -> m.Generated:
    """Continue request.ids in an empty session. Errors: of prefill, decode and sampler, `zg/backend/cancelled`."""
    check_params(request.params, service.config.vocab_size)
    if request.token_count_max < 1:
        raise LocalProtocolError(
            "zg/backend/bad-argument", f"got {request.token_count_max}, wanted at least 1", "token_count_max"
        )
    ids = list(request.ids)
    logits = service.prefill(m.Prefill(session=session, ids=request.ids, rows="last"), cancelled)
    tokens: list[m.GeneratedToken] = []
    while True:
        chosen = sample(logits[0], request.params, len(ids))
        tokens.append(
            m.GeneratedToken(id=chosen.id, data=service.detokenize([chosen.id]), logprob=chosen.logprob, top=chosen.top)
        )
        ids.append(chosen.id)
        if chosen.id in request.stop_ids:
            return m.Generated(tokens=tuple(tokens), finish="stop")
        if len(tokens) == request.token_count_max:
            return m.Generated(tokens=tuple(tokens), finish="length")
        if cancelled():
            raise LocalProtocolError("zg/backend/cancelled", f"after {len(tokens)} tokens", "generate")
        logits = service.decode([session], [chosen.id])
