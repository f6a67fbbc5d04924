"""The authority: strict checkers accept it, it vouches for fal's hosts only, its keys stay with their owner."""

import ssl
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from impasto.client import ca


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """A whole TLS handshake in memory. Raises `ssl.SSLCertVerificationError` when the client refuses."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server, server_hostname=name)
    other = server.wrap_bio(to_server, to_client, server_side=True)
    pending = {one, other}
    for _ in range(10):
        for side in list(pending):
            try:
                side.do_handshake()
                pending.discard(side)
            except ssl.SSLWantReadError:
                pass
        if not pending:
            return
    raise AssertionError("the handshake never ended")


def strict(certificate: Path) -> ssl.SSLContext:
    """As Python 3.13 checks by default."""
    context = ssl.create_default_context(cafile=str(certificate))
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


@pytest.mark.parametrize(
    "name",
    [
        *("fal.run", "queue.fal.run", "ws.fal.run", "rest.fal.ai", "rest.alpha.fal.ai", "api.fal.ai", "v3.fal.media"),
        *("v3b.fal.media", "fal.media", "queue.falrun.com", "localhost", "127.0.0.1", "::1"),
    ],
)
def test_every_name_of_fal_is_accepted_strictly(authority: ca.Authority, name: str) -> None:
    handshake(authority.server_context(), strict(authority.certificate), name)


@pytest.mark.parametrize("name", ["example.com", "fal.run.example.com", "evilfal.run", "10.0.0.1"])
def test_other_names_are_refused(authority: ca.Authority, name: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(authority.server_context(), strict(authority.certificate), name)


def test_the_authority_cannot_vouch_for_other_hosts(authority: ca.Authority, tmp_path: Path) -> None:
    """Signed with the authority's own key, a certificate for example.com is refused: the name constraints hold."""
    folder = authority.certificate.parent
    issuer_key = serialization.load_pem_private_key((folder / "authority.key").read_bytes(), password=None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    issuer = x509.load_pem_x509_certificate(authority.certificate.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    forged = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "example.com")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("example.com")]), critical=False)
        .add_extension(  # Python 3.13 would refuse it for the lack of this alone
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
        .sign(issuer_key, hashes.SHA256())
    )
    pem = tmp_path / "forged.pem"
    pem.write_bytes(
        forged.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        handshake(server, ssl.create_default_context(cafile=str(authority.certificate)), "example.com")


def test_extensions_are_those_that_checkers_ask_for(authority: ca.Authority) -> None:
    root = x509.load_pem_x509_certificate(authority.certificate.read_bytes())
    leaf = x509.load_pem_x509_certificate(authority.server.read_bytes())
    usage = root.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    basic = root.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    assert root.extensions.get_extension_for_class(x509.NameConstraints).critical
    basic = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca) == (True, False)
    identifier = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == identifier
    assert leaf.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        x509.ExtendedKeyUsageOID.SERVER_AUTH
    ]
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= timedelta(days=398)


def test_files_are_their_owners_but_for_the_certificate_that_programs_trust(authority: ca.Authority) -> None:
    folder = authority.certificate.parent
    authority.bundle()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o711
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    assert modes.pop("authority.pem") == 0o644
    assert {"authority.key", "server.pem", "server.key"} <= set(modes)
    assert set(modes.values()) == {0o600}


def test_an_authority_of_an_earlier_version_is_opened_to_other_users_programs(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    certificate = ca.ensure(folder).certificate
    before = certificate.read_bytes()
    folder.chmod(0o700)
    certificate.chmod(0o600)
    ca.ensure(folder)
    assert (stat.S_IMODE(folder.stat().st_mode), stat.S_IMODE(certificate.stat().st_mode)) == (0o711, 0o644)
    assert certificate.read_bytes() == before


def test_a_second_call_changes_nothing(tmp_path: Path) -> None:
    ca.ensure(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    ca.ensure(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_many_at_once_make_one(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def make(_: int) -> bytes:
        barrier.wait(30)
        return ca.ensure(tmp_path / "tls").certificate.read_bytes()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(make, range(8)))) == 1


@pytest.mark.parametrize("broken", ["server.pem", "server.key", "authority.pem", "authority.key"])
def test_what_is_damaged_is_made_anew(tmp_path: Path, broken: str) -> None:
    ca.ensure(tmp_path)
    (tmp_path / broken).write_text("damaged")
    authority = ca.ensure(tmp_path)
    handshake(authority.server_context(), strict(authority.certificate), "queue.fal.run")


def test_a_certificate_about_to_expire_is_renewed_under_the_same_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ca, "SERVER_DAYS", ca.RENEW_DAYS - 1)
    authority = ca.ensure(tmp_path)
    root, leaf = authority.certificate.read_bytes(), authority.server.read_bytes()
    monkeypatch.undo()
    authority = ca.ensure(tmp_path)
    assert authority.certificate.read_bytes() == root
    assert authority.server.read_bytes() != leaf


def test_bundle_holds_the_roots_given_and_ours(authority: ca.Authority, tmp_path: Path) -> None:
    foreign = ca.ensure(tmp_path / "foreign")
    missing = tmp_path / "missing.pem"
    bundle = authority.bundle(foreign.certificate, missing)
    context = ssl.create_default_context(cafile=str(bundle))
    handshake(authority.server_context(), context, "fal.run")
    handshake(foreign.server_context(), context, "fal.run")
    assert authority.bundle(foreign.certificate, missing) == bundle
    assert authority.bundle() != bundle
