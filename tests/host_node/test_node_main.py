"""A node as a process: it says where it listens and when it is ready, serves, drains on SIGTERM (G1, H1, E4)."""

import asyncio
import signal
from pathlib import Path

import msgspec
import pytest
from node_process import ROOT, WAIT_S, NodeProcess

from sim.cores import real_cores
from sim.replay import replay
from zeitgeist.core.descriptors.trust import Member
from zeitgeist.core.ids import Handle
from zeitgeist.core.trace import Drained, TransferEnded, WorkerChanged
from zeitgeist.core.wire.messages import Reason
from zeitgeist.core_source import core_digest
from zeitgeist.host.application import completion
from zeitgeist.host.config import HostConfig, host_config, node_config
from zeitgeist.host.events import Events
from zeitgeist.host.keyring import read_record
from zeitgeist.host.keys import add_node_key, believe, join_line, make_authority, make_bundle, make_certificate
from zeitgeist.host.node_main import Watch, main
from zeitgeist.host.runtime import Runtime

TINY = ROOT / "fixtures" / "models" / "zg-tiny"


def cluster(folder: Path) -> None:
    """Keys, certificates and one bundle for a and b."""
    make_authority(folder / "ca", "home")
    for node in ("a", "b"):
        add_node_key(folder / node, node)
        make_certificate(folder / node, node, ["127.0.0.1"], folder / "ca")
    bundle = make_bundle(folder / "ca", [read_record(folder / n / "member.json", Member) for n in ("a", "b")], "home")
    for node in ("a", "b"):
        believe(folder / node, bundle)


@pytest.mark.requirement("G1")
@pytest.mark.requirement("E4")
@pytest.mark.engine("reference")
def test_a_node_process_serves_a_completion_and_drains_while_a_stream_runs(tmp_path: Path) -> None:
    """b is a process, a is this one; SIGTERM comes at the fifth of 40 tokens: all 40 arrive, the process ends with 0,
    its recording is whole and replays without a difference."""
    cluster(tmp_path)
    worker = {"name": "w", "backend": "reference", "model": str(TINY)}
    trace = tmp_path / "b.zgtrace"

    async def run() -> None:
        config = {"keys": "b", "state": "b-state", "workers": [worker]}
        async with NodeProcess(tmp_path, "b", config, "--record", str(trace)) as b, asyncio.timeout(WAIT_S):
            listening = await b.line("listening")
            await b.line("ready")
            line = join_line(tmp_path / "b", listening["addresses"][0], "b")
            assert listening["certificate"] in line
            host = HostConfig(
                node="a", cluster="home", roles=("client",), keys=str(tmp_path / "a"), dial=(line,), listen=()
            )
            config_a, ring = node_config(host)
            async with (
                Runtime(config_a, keyring=ring) as a,
                completion(a, "Once upon", model=TINY.name, token_count_max=40) as stream,
            ):
                count = 0
                async for token in stream:
                    count += 1
                    if token.index == 4:
                        b.process.send_signal(signal.SIGTERM)
                assert (count, stream.outcome) == (40, "length")
            assert (await b.line("stopped"))["failure"] == ""
            assert await b.process.wait() == 0

    asyncio.run(run())
    assert trace.stat().st_mode & 0o777 == 0o600
    assert replay(trace, real_cores().makers(), core_digest()).same


@pytest.mark.parametrize(
    ("text", "id"),
    [
        ('node = "a"', "zg/host/bad-config"),
        ('node = "a"\ncluster = "home"\nsecret = "x"', "zg/host/bad-config"),
        ('node = "a"\ncluster = "home"', "zg/host/bad-config"),
        ('node = "a"\ncluster = "home"\nauth = ["none"]\nlisten = ["tcp:0.0.0.0:0"]', "zg/transport/needs-tls"),
        ('node = "a"\ncluster = "home"\nauth = ["none"]\nlisten = ["http://x"]', "zg/transport/bad-address"),
        ('node = "a"\ncluster = "home"\nauth = ["none"]\ndial = ["tcp:h:1 pin=x"]', "zg/host/bad-config"),
        ("{", "zg/host/bad-config"),
    ],
)
@pytest.mark.requirement("H1")
def test_a_wrong_configuration_is_one_line_and_exit_2(
    text: str, id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing and unknown fields, no keys, other hosts in the clear, addresses and join lines that mean nothing."""
    path = tmp_path / "node.toml"
    path.write_text(text)
    assert main(["--config", str(path)]) == 2
    said = capsys.readouterr().err
    assert id in said and len(said.splitlines()) == 1


def test_paths_of_a_configuration_are_relative_to_its_file(tmp_path: Path) -> None:
    """keys, state and a worker's model, from a file that is read from elsewhere."""
    (tmp_path / "m" / "x").mkdir(parents=True)
    path = tmp_path / "node.toml"
    path.write_text(
        'node = "a"\ncluster = "c"\nkeys = "k"\nstate = "/s"\n[[workers]]\nname = "w"\nbackend = "b"\nmodel = "m/x"\n'
    )
    found = host_config(path)
    assert (found.keys, found.state) == (str(tmp_path / "k"), "/s")
    assert found.workers[0].model == str(tmp_path / "m" / "x")


@pytest.mark.requirement("E4")
def test_a_node_without_an_application_keeps_no_tensor_that_it_is_sent() -> None:
    """What arrives whole is released; what we sent ourselves, and what failed, is not ours to release here."""

    async def run() -> None:
        events, released = Events(), []
        watch_all = Watch(events.subscribe(), set(), False, released.append)
        watch = asyncio.create_task(watch_all.run())
        for handle, reason in ((2, None), (3, None), (4, Reason(id="zg/transfer/stalled", detail="late"))):
            ended = {"peer": "b", "transfer": 1, "tensor": "t", "length": 1, "chunks": 1, "resent": 0}
            events.put(TransferEnded(handle=Handle(handle), reason=reason, **ended))
        events.put(Drained(reason=""))
        async with asyncio.timeout(WAIT_S):
            await watch_all.drained.wait()
        watch.cancel()
        assert released == [2]

    asyncio.run(run())


@pytest.mark.requirement("A10")
def test_an_operator_hears_of_a_worker_that_dies(capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each death and for giving it up, with the reason; then the node is ready without it."""

    async def run() -> None:
        events = Events()
        watch = Watch(events.subscribe(), {"w"}, False, lambda handle: None)
        task = asyncio.create_task(watch.run())
        events.put(WorkerChanged(name="w", state="starting"))
        events.put(WorkerChanged(name="w", state="died", reason="no backend"))
        events.put(WorkerChanged(name="w", state="given_up", reason="died 5 times"))
        events.put(Drained(reason=""))
        async with asyncio.timeout(WAIT_S):
            await watch.drained.wait()
        task.cancel()

    asyncio.run(run())
    said = [msgspec.json.decode(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["event"], line.get("reason")) for line in said] == [
        ("worker", "no backend"),
        ("worker", "died 5 times"),
        ("ready", None),
    ]
