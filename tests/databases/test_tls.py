"""TLS to a real PostgreSQL: who is verified, what is refused, and the client's own certificate."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from paidup.db.connection import connection, open_database, probe
from paidup.errors import ConfigurationError, DatabaseUnreachable, StorageUnavailable
from tests.support.postgres_process import PostgresProcess, give_to_user, system_programs
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("tls")  # one PostgreSQL with TLS for all of them

SESSION = (
    "SELECT ssl, client_dn, application_name FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
    " WHERE pid = pg_backend_pid()"
)


class Authority:
    """A certificate authority, and the certificates that it has signed, in one folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self._name = _name(f"{name} authority")
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = folder / f"{name}.crt"
        everything = x509.BasicConstraints(ca=True, path_length=None)
        signed = _builder(self._name, self._name, self._key).add_extension(everything, critical=True)
        _write(self.certificate, signed.sign(self._key, hashes.SHA256()))

    def sign(self, name: str, host: str | None = None) -> tuple[Path, Path]:
        """A certificate for `name`, and for `host` where it is a server's. Its file, and that of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name), self._name, key)
        if host:
            address = x509.IPAddress(ipaddress.ip_address(host))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        files = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        _write(files[0], builder.sign(self._key, hashes.SHA256()))
        files[1].touch(mode=0o600)
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    at = datetime.now(UTC)
    named = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    return (
        named.serial_number(x509.random_serial_number())
        .not_valid_before(at - timedelta(hours=1))
        .not_valid_after(at + timedelta(days=1))
    )


def _write(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


class TlsServer:
    """Takes `postgres` with TLS only, `certified` with a certificate, and `plain` either way."""

    def __init__(self, server: PostgresProcess, authority: Authority, other: Authority) -> None:
        self.server = server
        self.authority = authority
        self.other = other

    def url(self, parameters: str, user: str = "postgres", host: str = "127.0.0.1") -> str:
        return f"postgresql://{user}@{host}:{self.server.port}/postgres?{parameters}"


@pytest.fixture(scope="module")
def tls(scratch: Path) -> Iterator[TlsServer]:
    programs = system_programs()
    if programs is None:
        pytest.skip("there is no PostgreSQL with TLS: the one in the wheel has none")
    folder = scratch / "tls"
    folder.mkdir()
    authority, other = Authority(folder, "ours"), Authority(folder, "other")
    certificate, key = authority.sign("server", "127.0.0.1")
    for file in (certificate, key, authority.certificate):
        give_to_user(file)
    server = PostgresProcess.create(
        folder / "data",
        programs,
        f"ssl = on\nssl_cert_file = '{certificate}'\nssl_key_file = '{key}'\n"
        f"ssl_ca_file = '{authority.certificate}'",
    )
    try:
        asyncio.run(_create_user(server))
        rules = "hostssl all certified all cert\nhostssl all postgres all trust\nhost all plain all trust\n"
        rules += "host all guarded all scram-sha-256\nhost all missing all trust\n"
        (server.folder / "pg_hba.conf").write_text(rules)
        server.reload()
        yield TlsServer(server, authority, other)
    finally:
        server.stop()


def _nothing_open() -> bool:
    """asyncio closes the transport of a refused connection some turns later, as both sides have to."""
    transports = asyncio.get_running_loop()._transports  # type: ignore[attr-defined]
    return all(transport._sock is None for transport in transports.values())


async def _create_user(server: PostgresProcess) -> None:
    async with open_database(server.url()):
        await connection().execute_script(
            "CREATE USER certified; CREATE USER plain; CREATE USER guarded PASSWORD 'right'"
        )


async def _session(url: str) -> tuple[bool, str | None, str]:
    try:
        async with open_database(url):
            assert await probe()
            (row,) = await connection().execute_query_dict(SESSION)
    finally:
        await wait_until(_nothing_open)
    return row["ssl"], row["client_dn"], row["application_name"]


@pytest.mark.parametrize("mode", ["prefer", "require", "allow"])
async def test_modes_that_verify_nothing(tls: TlsServer, mode: str) -> None:
    """The server takes this user with TLS only."""
    assert await _session(tls.url(f"sslmode={mode}&application_name=mine")) == (True, None, "mine")


@pytest.mark.parametrize("parameters", ["sslmode=disable", "ssl=disable", "ssl=false"])
async def test_disabled(tls: TlsServer, parameters: str) -> None:
    """`?ssl=disable` is not true."""
    assert await _session(tls.url(parameters, "plain")) == (False, None, "paidup")
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        await _session(tls.url(parameters))


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full", "require"])
async def test_the_authority_is_verified(tls: TlsServer, mode: str) -> None:
    """With a root certificate, `require` verifies it too, as in libpq."""
    named = f"sslmode={mode}&sslrootcert="
    assert (await _session(tls.url(f"{named}{tls.authority.certificate}")))[0]
    with pytest.raises(StorageUnavailable, match="has a certificate that is not trusted"):
        await _session(tls.url(f"{named}{tls.other.certificate}"))


async def test_only_verify_full_compares_the_host(tls: TlsServer) -> None:
    """The certificate is for 127.0.0.1, and for no name."""
    rest = f"sslrootcert={tls.authority.certificate}"
    assert (await _session(tls.url(f"sslmode=verify-ca&{rest}", host="localhost")))[0]
    with pytest.raises(StorageUnavailable, match="localhost"):
        await _session(tls.url(f"sslmode=verify-full&{rest}", host="localhost"))


async def test_channel_binding_verifies_the_server(tls: TlsServer) -> None:
    """The driver has no channel binding: what it is for is not given up silently."""
    asked = "sslmode=require&channel_binding=require"
    assert (await _session(tls.url(f"{asked}&sslrootcert={tls.authority.certificate}")))[0]
    with pytest.raises(StorageUnavailable, match="has a certificate that is not trusted"):
        await _session(tls.url(asked))


async def test_the_systems_authorities_do_not_know_ours(tls: TlsServer) -> None:
    for parameters in ("sslmode=verify-full&sslrootcert=system", "ssl=true"):
        with pytest.raises(StorageUnavailable, match="has a certificate that is not trusted"):
            await _session(tls.url(parameters))


async def test_a_clients_certificate(tls: TlsServer) -> None:
    """`sslcert` and `sslkey` prove who connects."""
    certificate, key = tls.authority.sign("certified")
    named = f"sslmode=verify-full&sslrootcert={tls.authority.certificate}"
    shown = await _session(tls.url(f"{named}&sslcert={certificate}&sslkey={key}", "certified"))
    assert shown == (True, "/CN=certified", "paidup")
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        await _session(tls.url(named, "certified"))


NO_TLS = r"no pg_hba.conf entry for host .*, no encryption\): add \?sslmode=require"
CERTIFICATE = r"demands a client certificate \(connection requires a valid client certificate\): name its"
REFUSALS = {
    "TLS is demanded": ("postgres", "sslmode=disable", NO_TLS),
    "a certificate is demanded": ("certified", "sslmode=require", CERTIFICATE),
    "a certificate is demanded, and no TLS is tried next": ("certified", "sslmode=prefer", CERTIFICATE),
    "another user's certificate": ("certified", "{other}", "use one whose common name is this user"),
    "no rule": ("nobody", "sslmode=require", r"SSL encryption\): add a line for it to the server's pg_hba"),
    "no such user": ("missing", "sslmode=disable", r'\(role "missing" does not exist\): correct it in'),
    "a wrong password": ("guarded:wrong", "sslmode=require", "refuses this user or this password: correct"),
    "no password": ("guarded", "sslmode=disable", "refuses this user or this password: correct"),
}


@pytest.mark.parametrize(("user", "parameters", "line"), REFUSALS.values(), ids=REFUSALS)
async def test_a_refusal_says_what_the_server_demands(
    tls: TlsServer, user: str, parameters: str, line: str
) -> None:
    """One line with the remedy; that the password is wrong is said only where it is."""
    if parameters == "{other}":
        certificate, key = tls.authority.sign("somebody")
        parameters = f"sslmode=require&sslcert={certificate}&sslkey={key}"
    with pytest.raises(ConfigurationError, match=line) as refused:
        await _session(tls.url(parameters, user))
    (problem,) = refused.value.problems
    assert problem.startswith(f"DATABASE_URL: postgresql://127.0.0.1:{tls.server.port}/postgres ")
    assert "\n" not in problem


async def test_what_is_wrong_with_tls_is_not_blamed_on_the_address(tls: TlsServer) -> None:
    """It was: the database does not answer, start it."""
    wrong = f"sslmode=verify-full&sslrootcert={tls.other.certificate}"
    with pytest.raises(DatabaseUnreachable, match=r"not trusted \(.*\): name its authority's file"):
        await _session(tls.url(wrong))
    stranger = "&".join(
        f"{name}={file}" for name, file in zip(_PAIR, tls.other.sign("certified"), strict=True)
    )
    with pytest.raises(DatabaseUnreachable, match=r"TLS handshake \(.*\): check that its authority"):
        await _session(tls.url(f"sslmode=require&{stranger}", "certified"))


_PAIR = ("sslcert", "sslkey")


async def test_verification_without_an_authority_is_a_setting_to_correct(
    tls: TlsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in libpq, there is none by default, unless ~/.postgresql/root.crt is there."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"DATABASE_URL: root certificate file .* does not exist"):
        await _session(tls.url("sslmode=verify-full"))


async def test_tls_that_the_server_does_not_have_is_refused(database_url: str, scratch: Path) -> None:
    """`require` never falls back to an open connection."""
    server = PostgresProcess.create(scratch / "open")
    try:
        assert await _is_open(server.url(parameters="?sslmode=prefer"))
        with pytest.raises(DatabaseUnreachable, match=r"has no TLS: switch it on there"):
            await _is_open(server.url(parameters="?sslmode=require"))
    finally:
        server.stop()


async def _is_open(url: str) -> bool:
    try:
        async with open_database(url):
            return await probe()
    finally:
        await wait_until(_nothing_open)
