"""Pointers between stores: what they say, what they hide, where they lead."""

from __future__ import annotations

import msgspec
import pytest

from flowloom.kernel.errors import Misconfigured, Rejected, Unavailable
from flowloom.model.keys import parse_key
from flowloom.northbound.limits import is_key
from flowloom.northbound.numbering import scope_of
from flowloom.northbound.pointer import (
    Pointer,
    as_configured,
    check_public,
    open_in_force,
    pointer_key,
    pointer_of,
    public,
    same_place,
    write_of,
)
from flowloom.northbound.store import Entry, Store
from flowloom.testing.fake_store import MemoryDatabase


def test_a_pointer_comes_back_from_its_entry_and_is_no_record() -> None:
    pointer = Pointer(7, "etcd://h1:2379/flowloom", "cloud")
    write = write_of("region1", pointer)
    assert write.version == 7 and pointer_of(Entry(*write)) == pointer
    assert is_key(write.key) and scope_of(write.key) == "/region1/!store/", "a gap in its notices asks for little"
    with pytest.raises(Rejected):
        parse_key(write.key)
    assert pointer_of(None) is None and pointer_of(Entry(write.key, 7, None)) is None


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"{", "this is no pointer"),
        (b'{"generation":3,"url":"a://b","cloud":"c","schema":2}', "has schema 2, this release knows 1; upgrade"),
        (b'{"generation":4,"url":"a://b","cloud":"c"}', "says generation 4, its version is 3"),
    ],
)
def test_what_cannot_be_read_as_a_pointer_is_named(value: bytes, why: str) -> None:
    with pytest.raises(Rejected, match=why):
        pointer_of(Entry(pointer_key("d"), 3, value))


def test_a_field_of_a_later_release_is_passed_over() -> None:
    later = msgspec.json.encode({"generation": 3, "url": "a://b", "cloud": "c", "schema": 1, "mood": "good"})
    assert pointer_of(Entry(pointer_key("d"), 3, later)) == Pointer(3, "a://b", "c")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////run/x/nb.sqlite?synchronous=full", "sqlite:////run/x/nb.sqlite?synchronous=full"),
        ("redis://u:p%40ss@h1:1,h2:2/0?wait=1", "redis://u@h1:1,h2:2/0?wait=1"),
        ("redis://:pass@h1/0", "redis://@h1/0"),
        ("etcd://u@h1/p?password_file=/etc/x", "etcd://u@h1/p?password_file=/etc/x"),
    ],
)
def test_a_public_url_has_no_password_and_is_otherwise_as_it_was(url: str, shown: str) -> None:
    assert public(url) == shown and same_place(url, shown) and as_configured(shown, url) == url


@pytest.mark.parametrize("url", ["redis://u:secret1@h", "x://h/?password=secret1", "x://h/?api_token=secret1"])
def test_a_secret_in_a_url_that_everybody_reads_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(Misconfigured, match=r"--to.*password_file") as refused:
        check_public("--to", url)
    assert "secret1" not in str(refused.value)


def test_what_is_no_secret_is_not_refused() -> None:
    for url in ("etcd+tls://u@h/p?password_file=/x&tls_key=/y&timeout_seconds=3", "sqlite:////a/b?log_max=3"):
        check_public("--to", url)


def test_the_same_place_may_be_written_in_several_ways() -> None:
    assert same_place("etcd://h1:1,h2:2/p", "etcd://user@h2:2,h1:1/p/?timeout_seconds=9")
    for other in ("etcd://h1:1/p", "etcd://h1:1,h2:2/q", "redis://h1:1,h2:2/p"):
        assert not same_place("etcd://h1:1,h2:2/p", other)
    assert not same_place("redis://h?prefix=a", "redis://h?prefix=b")


class Stores:
    """Databases by URL, whose open handles are counted."""

    def __init__(self, *urls: str) -> None:
        self.databases = {url: MemoryDatabase() for url in urls}
        self.opened: list[str] = []

    def open(self, url: str) -> Store:
        self.opened.append(url)
        return self.databases[url].open()

    def point(self, at: str, generation: int, to: str) -> None:
        self.databases[at].open().apply([write_of("d", Pointer(generation, to, "c"))])


def test_a_chain_is_followed_to_its_end_and_an_older_pointer_leads_nobody_back() -> None:
    stores = Stores("m://u:pw@a", "m://b", "m://c")
    stores.point("m://u:pw@a", 1, "m://b")
    stores.point("m://b", 2, "m://c")
    stores.point("m://c", 2, "m://c")
    assert open_in_force("m://u:pw@a", "d", stores.open)[1:] == ("m://c", 2)
    assert stores.opened == ["m://u:pw@a", "m://b", "m://c"]
    stores.point("m://c", 3, "m://u@a")
    assert open_in_force("m://u:pw@a", "d", stores.open)[1:] == ("m://u@a", 3), "a's own pointer is older"
    assert stores.opened[-1] == "m://u:pw@a", "with the password that is configured"
    assert open_in_force("m://b", "d", Stores("m://b").open)[1:] == ("m://b", 0)


def test_a_store_on_the_way_that_does_not_answer_is_not_passed_over() -> None:
    stores = Stores("m://a", "m://b")
    stores.point("m://a", 1, "m://b")
    stores.databases["m://b"].available = False
    with pytest.raises(Unavailable):
        open_in_force("m://a", "d", stores.open)
