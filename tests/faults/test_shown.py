"""Fault 29: what would steer a terminal, hide or turn around text is escaped wherever it is shown."""

from __future__ import annotations

import json
import shlex
import socket
import threading
from typing import Any

import pexpect
import pytest

from p2pd.text import escape
from p2pd.wire import messages as m
from p2pd.wire.codec import encode
from tests.rig import Daemon, Host, ManagerLink, Oracle, Raw
from tests.rig.host import BIN, PATIENCE, wait_until

EVIL = "e\x1b[31m\x9b2J\u202egnp\u200b\ufe0f.exe"
SHOWN = r"e\x1b[31m\x9b2J\u202egnp\u200b\ufe0f.exe"
RAW = ("\x1b[31m\x9b", "\x9b", "\u202e", "\u200b", "\ufe0f")
HIDDEN = [
    *range(0x20), *range(0x7F, 0xA0), *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070),
    0xFEFF, 0xAD, 0x34F, 0x115F, 0x2800, 0x3164, 0xFFA0, 0xE0001, 0xE0100,
]  # fmt: skip
FADED = "ann\u3164a"
"""Blank, though Unicode calls it printable: may be a peer's name."""


def assert_plain(text: str) -> None:
    """Every line shows all that it holds."""
    for each in text.splitlines():
        assert escape(each) == each, f"not escaped: {each!r}"


def assert_consoles_plain(host: Host) -> None:
    for daemon in host.daemons:
        for each in daemon.console.lines:
            assert_plain(each)


def ctl(daemon: Daemon, *words: str) -> str:
    """What p2pctl shows, plain; also of what fails."""
    done = daemon.ctl(*words)
    assert_plain(done.stdout)
    assert_plain(done.stderr)
    return done.stdout + done.stderr


@pytest.mark.fault(29)
def test_escape_leaves_nothing_that_does_not_show() -> None:
    assert escape(EVIL) == SHOWN
    for code in HIDDEN:
        assert escape(f"a{chr(code)}b").isascii()


@pytest.mark.fault(29)
def test_names_of_files(host: Host) -> None:
    manager = host.manager()
    holder = host.peer("holder", manager=manager, files={EVIL: b"content", "plain": b"plain"})
    other = host.peer("other", manager=manager, files={f"2{EVIL}": b"one"})
    third = host.peer("third", manager=manager, files={f"2{EVIL}": b"two"})
    rx = host.peer("rx", manager=manager)
    rx.wait_peers(3)
    oracle = Oracle(host, [manager, holder, other, third, rx], {EVIL: b"content"}).warm()
    assert SHOWN in ctl(holder, "files")
    assert SHOWN in ctl(holder, "pieces", EVIL)
    assert SHOWN in ctl(rx, "req", EVIL)
    assert SHOWN in ctl(rx, "req", EVIL)  # here already
    assert SHOWN in ctl(rx, "transfers")
    assert SHOWN in ctl(rx, "req", f"3{EVIL}")
    assert "HELD BY" in ctl(rx, "req", f"2{EVIL}")
    for wrong in ([EVIL], ["req", f"../{EVIL}"], ["cancel", EVIL], ["req", "plain", "--id", EVIL],
                  ["req", "plain", "--from", EVIL], ["help", EVIL]):  # fmt: skip
        assert ctl(rx, *wrong)
    (row,) = [json.loads(line) for line in rx.ctl("--json", "files").stdout.splitlines()]
    assert row["name"] == EVIL, "a program gets the name as it is"
    holder.console.wait("(sent|asks for) .*" + r"gnp\\u200b")
    rx.console.wait(r"received .*gnp\\u200b")
    assert_consoles_plain(host)
    oracle.check()


@pytest.mark.fault(29)
def test_names_on_a_terminal(host: Host) -> None:
    manager = host.manager()
    holder = host.peer("holder", manager=manager, files={EVIL: b"content" * 1000, "plain.bin": b"plain"})
    rx = host.peer("rx", manager=manager)
    rx.wait_peers(1)
    oracle = Oracle(host, [manager, holder, rx], {EVIL: b"content" * 1000}).warm()
    env: Any = {**host.env, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "LC_ALL": "C.UTF-8"}
    seen = ""
    for daemon, words in ((holder, "files"), (rx, f"req {shlex.quote(EVIL)}"), (rx, "transfers")):
        child = pexpect.spawn(
            str(BIN / "p2pctl"), ["--port", str(daemon.port), *shlex.split(words)], env=env, encoding="utf-8",
            timeout=PATIENCE, dimensions=(24, 200),
        )  # fmt: skip
        child.expect(pexpect.EOF)
        seen += child.before or ""
        child.close()
    child = pexpect.spawn(
        str(BIN / "p2pctl"), ["--port", str(holder.port)], env=env, encoding="utf-8", timeout=PATIENCE,
        dimensions=(24, 200),
    )  # fmt: skip
    child.expect("holder>")
    child.send("pieces \t")  # two files: one can be typed, so it is the only choice
    child.expect("plain.bin")
    seen += (child.before or "") + str(child.after)
    child.send("\n")
    child.expect("holder>")
    seen += child.before or ""
    child.send("files\n")
    child.expect("gnp")
    seen += (child.before or "") + str(child.after)
    child.expect("holder>")
    seen += child.before or ""
    child.close()
    assert seen.count("gnp") >= 4
    for each in RAW:
        assert each not in seen, f"{each!r} reaches the terminal"
    assert_consoles_plain(host)
    oracle.check()


@pytest.mark.fault(29)
def test_names_and_sentences_of_peers(host: Host) -> None:
    manager = host.manager()
    holder = host.peer("holder", manager=manager, files={"plain": b"plain"})
    oracle = Oracle(host, [manager, holder], {"plain": b"plain"}).warm()
    link = ManagerLink(manager.port, "ef" * 16, FADED, 7009)
    holder.wait_peers(1)
    manager.console.wait(r"ann\\u3164a")
    assert r"ann\u3164a" in ctl(holder, "peers")
    assert r"ann\u3164a" in ctl(manager, "peers")
    with Raw(holder.port) as raw:
        raw.hello(FADED)
        assert raw.fetch(raw.req("plain"), 0, 5) == b"plain"  # type: ignore[arg-type]
        holder.console.wait(r"\(ann\\u3164a\)")
        assert r"ann\u3164a" in ctl(holder, "transfers")
        raw.send(m.Error("refused", EVIL))
        raw.expect_end()
    holder.console.wait(r"says: e\\x1b")
    with Raw(manager.port, table=m.MANAGER_TO_PEER) as raw:
        raw.send(m.Error("refused", EVIL))
        raw.expect_end()
    manager.console.wait("a peer complains")
    with Raw(holder.port) as raw:
        raw.hello()
        raw.send(m.Req(1, f"../{EVIL}", 0))
        assert_plain(raw.expect_error().message)
    link.close()
    assert_consoles_plain(host)
    oracle.check()


@pytest.mark.fault(29)
def test_sentences_of_a_manager(host: Host) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    host.on_close(listener.close)
    refuse = threading.Event()

    def serve() -> None:
        while True:
            try:
                link, _ = listener.accept()
            except OSError:
                return
            with link:
                link.recv(65536)
                if refuse.is_set():
                    link.sendall(encode(m.Error("refused", f"no: {EVIL}")))
                else:
                    row = m.PeerRow("ef" * 16, FADED, "127.0.0.1", 9)
                    link.sendall(
                        encode(m.Welcome("c", 30, "", f"yes: {EVIL}")) + encode(m.Peers(1, 0, True, [row]))
                    )
                    refuse.wait()

    threading.Thread(target=serve, daemon=True).start()
    peer = host.peer("peer", manager=f"127.0.0.1:{listener.getsockname()[1]}", files={"plain": b"plain"})
    host.on_close(refuse.set)
    oracle = Oracle(host, [peer], {"plain": b"plain"})
    peer.console.wait(r"yes: e\\x1b")
    assert f"yes: {SHOWN}" in ctl(peer, "status")
    assert r"ann\u3164a" in ctl(peer, "peers")
    assert ctl(peer, "req", "nothing")
    refuse.set()
    peer.console.wait(r"refused: no: e\\x1b")
    wait_until(lambda: any("no: e" in each for each in peer.status()["problems"]), "it is told")
    assert f"no: {SHOWN}" in ctl(peer, "status")
    assert_consoles_plain(host)
    oracle.check()
