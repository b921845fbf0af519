"""Handing a KV cache over against computing it again (D4): export → convert → import of 2,000 tokens, ordered pairs.

Engines run in real workers. Each round does everything once, interleaved: every export, every import, every
recompute; a figure is the median of the rounds, in wall time, because what is saved is somebody's waiting. `import` is
the whole of it as the receiver's worker does it: read, verify digests, admit, convert, hand to the engine. `convert`
is the conversion alone, measured here on the same bytes; it is part of `import`. exchange = export + import;
ratio = recompute / exchange: above 1 the exchange is the shorter way. recompute = prefill of the same tokens by the
receiver, last row only.

    python benchmarks/cache_exchange.py [--engines a,b] [--model PATH] [--tokens N] [--rounds N] [--json]
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from certify.passages import passage_ids
from zeitgeist.convert import kv_file
from zeitgeist.convert.path import convert_cache
from zeitgeist.host.workers import Worker, WorkerSpec

ENGINES = ("reference", "torch", "mlx", "llama_cpp")
ZG_TINY = Path(__file__).resolve().parent.parent / "fixtures" / "models" / "zg-tiny"


@dataclass
class Party:
    """One engine with the model loaded and a session that holds the tokens. Times in milliseconds, one a round."""

    name: str
    worker: Worker
    ids: list[int]
    session: int = -1
    data: bytes = b""
    exports: list[float] = field(default_factory=list)
    recomputes: list[float] = field(default_factory=list)

    def recompute(self) -> None:
        """Prefill afresh; the last session is kept for the export."""
        if self.session >= 0:
            self.worker.close(self.session)
        self.session = self.worker.open()
        self.recomputes.append(milliseconds(lambda: self.worker.prefill(self.session, self.ids, rows="last"))[0])

    def export(self) -> None:
        """Export what the session holds."""
        took, data = milliseconds(lambda: self.worker.export_cache(self.session))
        self.exports.append(took)
        self.data = bytes(data)


@dataclass
class Pair:
    """One direction. Times in milliseconds, one a round."""

    exporter: Party
    importer: Party
    imports: list[float] = field(default_factory=list)
    conversions: list[float] = field(default_factory=list)

    def exchange(self) -> None:
        """Import into a new session and free it; convert here as the receiver does there."""
        worker = self.importer.worker
        took, imported = milliseconds(lambda: worker.import_cache(self.exporter.data, self.importer.ids))
        self.imports.append(took)
        worker.close(imported.session)
        cache, forms = kv_file.load(self.exporter.data), worker.describe().cache_forms
        same = cache.descriptor.form in forms
        self.conversions.append(0.0 if same else milliseconds(lambda: convert_cache(cache, forms[0]))[0])

    def row(self) -> dict[str, Any]:
        """Medians without the first round, which pays for what is done once."""
        export, into = median(self.exporter.exports[1:]), median(self.imports[1:])
        recompute = median(self.importer.recomputes[1:])
        return {
            "exporter": self.exporter.name,
            "importer": self.importer.name,
            "bytes": len(self.exporter.data),
            "export_ms": export,
            "convert_ms": median(self.conversions[1:]),
            "import_ms": into,
            "exchange_ms": export + into,
            "recompute_ms": recompute,
            "ratio": recompute / (export + into),
        }


def milliseconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """(wall milliseconds, result)."""
    start = time.perf_counter()
    result = call()
    return (time.perf_counter() - start) * 1e3, result


def measure(engines: Sequence[str], model: Path, token_count: int, rounds: int) -> list[dict[str, Any]]:
    """One row an ordered pair; the diagonal is an engine with itself."""
    source = passage_ids(model)
    ids = [source[i % len(source)] for i in range(token_count)]
    with ExitStack() as stack:
        parties: list[Party] = []
        for name in engines:
            worker = stack.enter_context(Worker.start(WorkerSpec(backend=name, timeout_s=600)))
            worker.load(model)
            parties.append(Party(name, worker, ids))
        pairs = [Pair(a, b) for a, b in product(parties, parties)]
        for _ in range(rounds + 1):
            for party in parties:
                party.recompute()
                party.export()
            for pair in pairs:
                pair.exchange()
        return [pair.row() for pair in pairs]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    names = ("from", "to", "MB", "export ms", "import ms", "of it convert ms", "exchange ms", "recompute ms")
    lines = [f"| {' | '.join(names)} | recompute / exchange |", "|---|---|--:|--:|--:|--:|--:|--:|--:|"]
    lines += [
        f"| {r['exporter']} | {r['importer']} | {r['bytes'] / 1e6:.1f} | {r['export_ms']:.1f} | {r['import_ms']:.1f} | "
        f"{r['convert_ms']:.1f} | {r['exchange_ms']:.1f} | {r['recompute_ms']:.0f} | {r['ratio']:.1f} |"
        for r in rows
    ]
    return "\n".join(lines)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--model", type=Path, default=ZG_TINY)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5, help="after one that is not counted (default: 5)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure(options.engines.split(","), options.model, options.tokens, options.rounds)
    found = {"tokens": options.tokens, "rounds": options.rounds, "rows": rows}
    print(json.dumps(found) if options.json else table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
