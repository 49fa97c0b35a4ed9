from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.errors import UsageError
from p2pd.net.addresses import (
    canonical_host,
    is_dialable,
    is_loopback,
    is_own,
    is_wildcard,
    join_host_port,
    listen_hosts,
    parse_port,
    resolve,
    split_host_port,
)


@pytest.mark.fault(73)
@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::ffff:10.0.0.5", "10.0.0.5"),
        ("::FFFF:a00:5", "10.0.0.5"),
        ("FE80::1%eth0", "fe80::1%eth0"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("2001:db8::1%eth0", "2001:db8::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
    ],
)
def test_one_spelling(text: str, host: str) -> None:
    assert canonical_host(text) == host
    assert canonical_host(host) == host


@pytest.mark.parametrize(
    "text", ["", "localhost", "1.2.3", "01.2.3.4", "1.2.3.4 ", "::1%", "fe80::1%a b", "[::1]", "1.2.3.\uff14"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError):
        canonical_host(text)
    assert not is_loopback(text)
    assert not is_wildcard(text)
    assert not is_dialable(text)


@given(st.ip_addresses())
def test_canonical_is_stable(address: Any) -> None:
    host = canonical_host(str(address))
    assert canonical_host(host) == host
    assert split_host_port(join_host_port(host, 7)) == (host, 7)


def test_kinds() -> None:
    assert is_loopback("127.3.2.1")
    assert is_loopback("::ffff:127.0.0.1")
    assert is_wildcard("::")
    assert is_wildcard("::ffff:0.0.0.0")
    assert not is_dialable("::ffff:10.0.0.5")
    assert not is_dialable("ff02::1")
    assert is_dialable("10.0.0.5")


def test_own_addresses() -> None:
    assert is_own("127.0.0.1")
    assert not is_own("0.0.0.0")
    assert not is_own("192.0.2.1")
    assert not is_own("nonsense")


def test_listen_hosts() -> None:
    assert listen_hosts("localhost")[0] == "127.0.0.1"
    assert set(listen_hosts("localhost")) <= {"127.0.0.1", "::1"}
    assert listen_hosts("::") == ["::"]
    with pytest.raises(UsageError):
        listen_hosts("no such host")


def test_resolve() -> None:
    assert is_loopback(resolve("localhost"))
    with pytest.raises(UsageError):
        resolve("a" * 300)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("localhost:12000", ("localhost", 12000)),
        ("[::1]:12000", ("::1", 12000)),
        ("10.0.0.5:1", ("10.0.0.5", 1)),
        ("lab-3.example.org:65535", ("lab-3.example.org", 65535)),
    ],
)
def test_split_host_port(text: str, parts: Any) -> None:
    assert split_host_port(text) == parts


@pytest.mark.fault(13)
@pytest.mark.parametrize(
    "text",
    [
        *("", "12000", "localhost", "localhost:", ":12000", "::1:12000", "[::1]", "[lab]:1", "lab:0"),
        *("lab:65536", "lab:1_0", "lab: 7", "lab:\uff17", "lab:-1", "a b:1", "-x:1", "lab:0x10"),
    ],
)
def test_what_is_no_host_and_port(text: str) -> None:
    with pytest.raises(UsageError):
        split_host_port(text)


def test_ports() -> None:
    assert parse_port("0") == 0
    assert parse_port("65535") == 65535
