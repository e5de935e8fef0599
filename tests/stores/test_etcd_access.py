"""Who may use an etcd cluster and how it is named: URLs, users, roles, certificates, what a prefix may hold."""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from flowloom.drivers.store import etcd_rpc_pb2 as rpc
from flowloom.drivers.store.etcd import EtcdStore, open_store, parse
from flowloom.kernel.errors import Misconfigured, Unavailable
from flowloom.northbound import plugins
from flowloom.northbound.store import Entry, Outcome, Write
from flowloom.testing.certificates import Authority, Pair, new_authority
from flowloom.testing.etcd_server import Certificates, Cluster, etcd

SECRET = "geheim/ß%"
ENCODED = "geheim%2F%C3%9F%25"


@contextlib.contextmanager
def opened(url: str) -> Iterator[EtcdStore]:
    store = open_store(url)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with etcd(tmp_path_factory.mktemp("etcd") / "plain") as cluster:
        yield cluster


# --- URLs ---


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("etcd://", "host"),
        ("etcd:///prefix", "host"),
        ("etcd://h:99999/p", "h:99999"),
        ("etcd://h,/p", "host"),
        ("etcd://h/a b", "prefix"),
        ("etcd://h/a%23b", "prefix"),
        ("etcd://user@h/p", "user and password go together"),
        ("etcd://:pw@h/p", "user and password go together"),
        ("etcd://user@h/p?password_file=/nowhere/at/all", "/nowhere/at/all"),
        ("etcd://h/p?timeout_seconds=soon", "timeout_seconds"),
        ("etcd://h/p?timeout_seconds=0", "timeout_seconds"),
        ("etcd://h/p?tls_ca=/x", "tls_ca"),
        ("etcd://h/p?speed=1", "speed"),
        ("etcd+tls://h/p", "tls_ca"),
        ("etcd+tls://h/p?tls_ca=/nowhere/at/all", "/nowhere/at/all"),
    ],
)
def test_a_wrong_url_names_the_setting_and_what_is_wrong(bad: str, says: str) -> None:
    with pytest.raises(Misconfigured, match=says) as caught:
        open_store(bad)
    assert caught.value.setting == "store"


def test_a_url_is_taken_apart() -> None:
    settings, prefix = parse(f"etcd://root:{ENCODED}@h1,h2:2380,[::1]:1/a/b/?timeout_seconds=2.5")
    assert settings.endpoints == ("h1:2379", "h2:2380", "[::1]:1")
    assert (settings.user, settings.password, settings.timeout_seconds) == ("root", SECRET, 2.5)
    assert prefix == "/a/b"
    assert parse("etcd://h")[1] == "/flowloom"
    assert SECRET not in repr(settings)


def test_a_missing_client_library_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("etcd://h/p", "etcd+tls://h/p"):
        for module in ("flowloom.drivers.store.etcd", "grpc"):
            monkeypatch.setitem(__import__("sys").modules, module, None)
        with pytest.raises(Misconfigured, match=re.escape("pip install 'flowloom[etcd]'")):
            plugins.open_store(url)


# --- what a prefix holds ---


def test_a_prefix_that_holds_something_else_is_left_alone(plain: Cluster) -> None:
    plain.ctl("put", "/registry/pods/x", "theirs")
    with pytest.raises(Misconfigured, match=r"/registry/pods/x.*another prefix"):
        open_store(plain.url("/registry"))
    assert plain.ctl("get", "--prefix", "/registry", "--keys-only").split() == ["/registry/pods/x"]


def test_a_newer_schema_is_refused(plain: Cluster) -> None:
    plain.ctl("put", "/newer#database", "flowloom 2 abc")
    with pytest.raises(Misconfigured, match=r"schema 2.*upgrade"):
        open_store(plain.url("/newer"))


def test_a_database_upgraded_under_a_running_store_is_not_written(plain: Cluster) -> None:
    with opened(plain.url("/upgraded")) as store:
        store.apply([Write("/d/a", 1, b"")])
        plain.ctl("put", "/upgraded#database", "flowloom 2 abc")
        with pytest.raises(Unavailable, match="schema 2"):
            store.apply([Write("/d/a", 2, b"")])
        with pytest.raises(Unavailable, match="schema 2"):
            store.read("/d/")
        assert "0000000000000000001=" in plain.ctl("get", "/upgraded/d/a")


def test_two_prefixes_are_two_databases(plain: Cluster) -> None:
    with opened(plain.url("/one")) as one, opened(plain.url("/on")) as other:
        one.apply([Write("/d/a", 1, b"")])
        assert not other.read("").entries
        assert list(one.read("").entries) == [Entry("/d/a", 1, b"")]
        assert one.read("").cursor.epoch != other.read("").cursor.epoch


def test_what_is_no_key_is_never_found(plain: Cluster) -> None:
    with opened(plain.url("/nokey")) as store:
        store.apply([Write("/d/a", 1, b"")])
        assert store.get(["#database", "", "d/a"]) == [None, None, None]
        assert not store.read("#").entries
        assert not store.read("d").entries


def test_two_handles_create_one_database(plain: Cluster) -> None:
    with futures.ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(open_store, [plain.url("/raced")] * 8))
    assert len({store.read("/").cursor.epoch for store in stores}) == 1
    for store in stores:
        store.close()


# --- an old server ---


class OldServer(grpc.GenericRpcHandler):
    """Says that it is etcd 3.3.27."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if not handler_call_details.method.endswith("/Status"):
            return None
        return grpc.unary_unary_rpc_method_handler(
            lambda _request, _context: rpc.StatusResponse(version="3.3.27", leader=1),
            rpc.StatusRequest.FromString,
            rpc.StatusResponse.SerializeToString,
        )


def test_a_server_that_is_too_old_is_refused() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[OldServer()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(Misconfigured, match=r"3\.3\.27.*3\.4 or newer"):
            open_store(f"etcd://127.0.0.1:{port}/p")
    finally:
        server.stop(None)


# --- users and roles ---


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Users root, writer and reader; the last two see /flowloom alone."""
    with etcd(tmp_path_factory.mktemp("etcd") / "guarded") as cluster:
        for role, right in (("writes", "readwrite"), ("reads", "read")):
            cluster.ctl("role", "add", role)
            cluster.ctl("role", "grant-permission", "--prefix", role, right, "/flowloom")
        for user, role in (("root", "root"), ("writer", "writes"), ("reader", "reads")):
            cluster.ctl("user", "add", f"{user}:{SECRET}")
            if role != "root":
                cluster.ctl("user", "grant-role", user, role)
        cluster.ctl("role", "add", "root")
        cluster.ctl("user", "grant-role", "root", "root")
        cluster.ctl("auth", "enable")
        cluster.ctl_flags = (f"--user=root:{SECRET}",)
        yield cluster


def login(user: str, password: str = ENCODED) -> str:
    return f"{user}:{password}@"


def test_a_user_with_a_password_gets_in_and_stays_in_after_a_restart(guarded: Cluster, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(SECRET + "\n")
    by_file = f"password_file={tmp_path}/password"
    with (
        opened(guarded.url(login=login("writer"))) as store,
        opened(guarded.url("/flowloom", by_file, "writer@")) as two,
    ):
        assert store.apply([Write("/d/a", 1, b"")]) == [Outcome("/d/a", True, 1)]
        watch = two.watch("/d/", two.read("/d/").cursor)
        assert not watch.next(0.1).entries
        guarded.kill()  # Tokens are in the members' memory.
        guarded.start(healthy=False)
        assert store.apply([Write("/d/a", 2, b"")]) == [Outcome("/d/a", True, 2)]
        found: list[Entry] = []
        for _ in range(20):
            with contextlib.suppress(Unavailable):
                found += watch.next(1.0).entries
            if found:
                break
        assert found == [Entry("/d/a", 2, b"")]


def test_wrong_credentials_are_one_sentence_without_the_secret(guarded: Cluster) -> None:
    wrong = "falsch-und-geheim"
    for url in (guarded.url(login=login("writer", wrong)), guarded.url(login=login("nobody", wrong)), guarded.url()):
        with pytest.raises(Misconfigured, match="user, password or role") as caught:
            open_store(url)
        assert wrong not in "".join(traceback.format_exception(caught.value))


def test_a_role_without_rights_on_the_prefix_is_refused_at_start(guarded: Cluster) -> None:
    with pytest.raises(Misconfigured, match=r"permission denied.*role"):
        open_store(guarded.url("/elsewhere", login=login("writer")))


def test_a_reader_reads_and_watches_and_is_told_that_it_may_not_write(guarded: Cluster) -> None:
    with opened(guarded.url(login=login("writer"))) as writer, opened(guarded.url(login=login("reader"))) as reader:
        listing = reader.read("/r/")
        writer.apply([Write("/r/a", 1, b"")])
        assert list(reader.watch("/r/", listing.cursor).next(5.0).entries) == [Entry("/r/a", 1, b"")]
        with pytest.raises(Unavailable, match="permission denied"):
            reader.apply([Write("/r/a", 2, b"")])
        assert reader.get(["/r/a"]) == [Entry("/r/a", 1, b"")]


def test_a_user_where_authentication_is_not_enabled_yet_is_no_obstacle(plain: Cluster) -> None:
    with opened(plain.url("/early", login=login("writer"))) as store:
        assert store.apply([Write("/d/a", 1, b"")]) == [Outcome("/d/a", True, 1)]


# --- TLS ---


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return new_authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return new_authority(tmp_path_factory.mktemp("tls") / "theirs")


@pytest.fixture(scope="module")
def client(authority: Authority) -> Pair:
    return authority.certify("client")


@pytest.fixture(scope="module")
def secured(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Encrypted, and clients must show a certificate."""
    server = authority.certify("server")
    certificates = Certificates(server.cert, server.key, authority.cert)
    with etcd(tmp_path_factory.mktemp("etcd") / "secured", members=3, certificates=certificates) as cluster:
        yield cluster


def test_a_verified_server_and_a_verified_client(secured: Cluster, authority: Authority, client: Pair) -> None:
    options = f"tls_ca={authority.cert}&tls_cert={client.cert}&tls_key={client.key}"
    with opened(secured.url(options=options)) as store, opened(secured.url(options=options)) as other:
        listing = other.read("/d/")
        assert store.apply([Write("/d/a", 1, b"")]) == [Outcome("/d/a", True, 1)]
        assert list(other.watch("/d/", listing.cursor).next(5.0).entries) == [Entry("/d/a", 1, b"")]


def test_a_server_of_another_authority_is_not_spoken_to(secured: Cluster, stranger: Authority, client: Pair) -> None:
    options = f"tls_ca={stranger.cert}&tls_cert={client.cert}&tls_key={client.key}&timeout_seconds=2"
    with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
        open_store(secured.url(options=options))


def test_a_client_of_another_authority_or_of_none_gets_no_answer(
    secured: Cluster, authority: Authority, stranger: Authority
) -> None:
    theirs = stranger.certify("client")
    for more in ("", f"&tls_cert={theirs.cert}&tls_key={theirs.key}"):
        with pytest.raises(Unavailable, match="does not answer"):
            open_store(secured.url(options=f"tls_ca={authority.cert}&timeout_seconds=2{more}"))


def test_a_certificate_for_another_host_is_refused_unless_that_name_is_expected(
    authority: Authority, tmp_path: Path
) -> None:
    server = authority.certify("elsewhere", "DNS:northbound.example.org")
    with etcd(tmp_path / "etcd", certificates=Certificates(server.cert, server.key), healthy=False) as cluster:
        options = f"tls_ca={authority.cert}&timeout_seconds=3"
        with pytest.raises(Unavailable, match="does not answer"):
            open_store(cluster.url(options=options))
        with opened(cluster.url(options=f"{options}&tls_server_name=northbound.example.org")) as store:
            assert not store.read("/").entries


def test_an_unencrypted_url_for_an_encrypted_server_and_the_other_way_round(
    secured: Cluster, plain: Cluster, authority: Authority
) -> None:
    port = secured.members[0].client
    with pytest.raises(Unavailable, match="does not answer"):
        open_store(f"etcd://127.0.0.1:{port}/p?timeout_seconds=1")
    port = plain.members[0].client
    with pytest.raises(Unavailable, match="does not answer"):
        open_store(f"etcd+tls://127.0.0.1:{port}/p?timeout_seconds=1&tls_ca={authority.cert}")


def test_a_damaged_file_of_certificates_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate at all")
    with pytest.raises(Misconfigured, match=r"tls_ca.*ca\.pem"):
        open_store(f"etcd+tls://127.0.0.1:1/p?tls_ca={tmp_path}/ca.pem")


def test_a_key_that_is_not_the_certificates_is_named(authority: Authority, client: Pair) -> None:
    other = authority.certify("other")
    options = f"tls_ca={authority.cert}&tls_cert={client.cert}&tls_key={other.key}"
    with pytest.raises(Misconfigured, match=r"tls_cert.*client\.pem"):
        open_store(f"etcd+tls://127.0.0.1:1/p?{options}")


# --- the messages ---


def test_the_messages_are_generated_from_the_file_beside_them() -> None:
    source = (Path(rpc.__file__).parent / "etcd_rpc.proto").read_text()
    declared, scope = set(), []  # type: ignore[var-annotated]
    for line in source.splitlines():
        if found := re.match(r"\s*(message|enum|oneof) (\w+) {(})?", line):
            if not found[3]:
                scope.append(found[2] if found[1] != "oneof" else "")
        elif found := re.match(r"\s*(?:repeated )?(?:(\w+) )?(\w+) = (\d+);", line):
            if scope:
                declared.add((".".join(filter(None, scope)), found[2], int(found[3])))
        elif line.strip() == "}":
            scope.pop()
    generated = set()
    pending = list(rpc.DESCRIPTOR.message_types_by_name.values())
    while pending:
        message = pending.pop()
        pending += message.nested_types
        name = message.full_name.removeprefix("flowloom.etcd.")
        generated |= {(name, each.name, each.number) for each in message.fields}
        generated |= {(f"{name}.{enum.name}", v.name, v.number) for enum in message.enum_types for v in enum.values}
    assert generated == declared
