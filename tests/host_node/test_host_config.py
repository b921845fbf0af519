"""A configuration that no peer would take, or that ends everything at once, starts no node: it is refused by field."""

from pathlib import Path

import pytest

from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.host.config import HostConfig, host_config, node_config, parse_join
from zeitgeist.host.keys import add_token
from zeitgeist.host.node_main import main

pytestmark = pytest.mark.requirement("A10")

GOOD = {
    "node": '"n-1"',
    "cluster": '"home"',
    "auth": '["token"]',
    "keys": '"keys"',
    "listen": '["tcp:127.0.0.1:0"]',
    "roles": '["executor"]',
}
WORKER = '[[workers]]\nname = "{}"\nbackend = "reference"\n'
BAD = [
    ("node", '""'),
    ("node", '"Big Node\\n"'),
    ("node", f'"{"n" * 65}"'),
    ("cluster", '""'),
    ("cluster", f'"{"c" * 65}"'),
    ("auth", "[]"),
    ("auth", '["token", "token"]'),
    ("roles", "[]"),
    ("roles", '["executor", "executor"]'),
    ("stream_window", "0"),
    ("stream_window", "-1"),
    ("stream_window", "99999999999999999999"),
    ("transfer_bytes_max", "-1"),
    ("payload_bytes_max", "0"),
    ("times", "{ heartbeat_ns = 0 }"),
    ("times", "{ handshake_ns = -1 }"),
    ("times", "{ heartbeat_ns = 5, silence_ns = 5 }"),
    ("times", "{ redial_first_ns = 9, redial_most_ns = 8 }"),
]


def written(folder: Path, fields: dict[str, str], more: str = "") -> Path:
    add_token(folder / "keys", b"\x07" * 32)
    path = folder / "node.toml"
    path.write_text("".join(f"{key} = {value}\n" for key, value in fields.items()) + more)
    return path


def test_the_good_one_is_taken(tmp_path: Path) -> None:
    """What the cases below change one word of."""
    host = host_config(written(tmp_path, GOOD, WORKER.format("w")))
    config, _ = node_config(host)
    assert (config.node, config.workers[0].name) == ("n-1", "w")


@pytest.mark.parametrize(("field", "value"), BAD, ids=[f"{field}={value[:24]}" for field, value in BAD])
def test_each_field_that_makes_no_sense_is_named(tmp_path: Path, field: str, value: str) -> None:
    """Types are right, sense is not: `zg/host/bad-config` names the field, before a socket is opened."""
    with pytest.raises(LocalProtocolError) as refusal:
        host_config(written(tmp_path, GOOD | {field: value}))
    assert refusal.value.id == "zg/host/bad-config" and refusal.value.field.startswith(field)


@pytest.mark.parametrize("names", [("",), ("w", "w"), ("n-1",), ("W",)])
def test_workers_have_names_of_their_own(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Two of one name, or the node's own, could not be told apart by their sessions."""
    with pytest.raises(LocalProtocolError, match=r"workers\.name.*zg/host/bad-config"):
        host_config(written(tmp_path, GOOD, "".join(WORKER.format(name) for name in names)))


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Else its worker would be started and die five times, each time after its backend was loaded."""
    with pytest.raises(LocalProtocolError, match=r"workers\.model: got .*missing.*zg/host/bad-config"):
        host_config(written(tmp_path, GOOD, WORKER.format("w") + 'model = "missing"\n'))


def test_a_node_that_could_prove_itself_to_nobody_is_refused(tmp_path: Path) -> None:
    """No such folder, and mode token without a token."""
    host = HostConfig(node="n", cluster="home", auth=("token",))
    with pytest.raises(LocalProtocolError, match="no token"):
        node_config(host)
    missing = written(tmp_path, GOOD | {"keys": '"nowhere"'})
    with pytest.raises(LocalProtocolError, match=r"keys: .*zg/host/bad-config"):
        node_config(host_config(missing))
    assert main(["--config", str(missing)]) == 2


@pytest.mark.parametrize("words", ["node=A", "certificate=zz", "certificate=sha256:00"])
def test_a_join_line_with_a_name_or_a_certificate_that_cannot_be_is_refused(words: str) -> None:
    """It would be dialled for ever and never be believed."""
    with pytest.raises(LocalProtocolError, match="zg/host/bad-config"):
        parse_join(f"tcp:127.0.0.1:1 {words}")
