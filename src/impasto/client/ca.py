"""A certificate authority of this machine's own, good for fal's host names and nothing else.

Made on first use: `authority.pem`, which programs of all users of the machine may read, and for its owner only
`authority.key`, `server.pem`, `server.key`. The folder's mode 0711 lets others in by name only. The authority
carries name constraints: trusted for fal's hosts and loopback only, its key, stolen, cannot pose as a bank.
"""

import fcntl
import ipaddress
import os
import ssl
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from impasto.client.hosts import DOMAINS

NAMES = (*(name for domain in DOMAINS for name in (domain, f"*.{domain}")), "*.alpha.fal.ai", "localhost")
ADDRESSES = (ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"))
NETWORKS = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))

AUTHORITY_DAYS = 3650
SERVER_DAYS = 397  # Apple's and browsers' limit
RENEW_DAYS = 30


@dataclass(frozen=True, slots=True)
class Authority:
    """Where the certificates are: `certificate` for programs to trust, `server` and `server_key` for the TLS side."""

    certificate: Path
    server: Path
    server_key: Path

    def server_context(self) -> ssl.SSLContext:
        """TLS for the listener: HTTP/1.1 only, since what is behind it is forwarded byte for byte."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.server, self.server_key)
        context.set_alpn_protocols(["http/1.1"])
        return context

    def bundle(self, *roots: Path) -> Path:
        """A file with the certificates of `roots` and ours, for variables that replace a program's roots.

        Named after its content, next to the authority: programs with different roots can run at the same time. Roots
        that cannot be read are left out, as the libraries themselves do.
        """
        parts = [part for root in roots if (part := _text(root))]
        content = "\n".join([*parts, self.certificate.read_text()])
        path = self.certificate.with_name(f"bundle-{sha256(content.encode()).hexdigest()[:16]}.pem")
        if not path.exists():
            _write(path, content.encode())
        return path


def ensure(folder: Path) -> Authority:
    """The authority kept in `folder`, made or renewed as needed. Safe to call from several processes at once.

    Raises `OSError` when the folder cannot be written.
    """
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    if stat.S_IMODE(folder.stat().st_mode) == 0o700:  # of an earlier version
        folder.chmod(0o711)
    paths = Authority(folder / "authority.pem", folder / "server.pem", folder / "server.key")
    key_path = folder / "authority.key"
    with _locked(folder / "lock"):
        authority = _load(paths.certificate, key_path)
        if authority is None:
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = _authority_certificate(key)
            _write(key_path, _pem(key))
            _write(paths.certificate, certificate.public_bytes(serialization.Encoding.PEM))
            authority = certificate, key
        paths.certificate.chmod(0o644)  # it is no secret: programs of other users are to trust it, too
        server = _load(paths.server, paths.server_key)
        if server is None or not _issued(server[0], authority[0]):
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = _server_certificate(key, issuer=authority[0], issuer_key=authority[1])
            _write(paths.server_key, _pem(key))
            _write(paths.server, certificate.public_bytes(serialization.Encoding.PEM))
    return paths


def _authority_certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"impasto local authority {os.urandom(4).hex()}")])
    subtrees = [x509.DNSName(domain) for domain in (*DOMAINS, "localhost")] + [x509.IPAddress(net) for net in NETWORKS]
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        _draft(name, issuer=name, key=key, days=AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        # Python 3.13 checks strictly and refuses an authority without keyUsage.
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.NameConstraints(permitted_subtrees=subtrees, excluded_subtrees=None), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )


def _server_certificate(
    key: ec.EllipticCurvePrivateKey, *, issuer: x509.Certificate, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fal.run")])
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    alternatives = [*(x509.DNSName(name) for name in NAMES), *(x509.IPAddress(address) for address in ADDRESSES)]
    return (
        _draft(name, issuer=issuer.subject, key=key, days=SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def _draft(
    subject: x509.Name, *, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    start = datetime.now(UTC) - timedelta(hours=1)  # clocks of containers and hosts differ a little
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _load(certificate: Path, key: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None:
    """The pair, or None when it is missing, damaged, not a pair or about to expire: then a new one is made."""
    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != loaded.public_key():
        return None
    if loaded.not_valid_after_utc - datetime.now(UTC) < timedelta(days=RENEW_DAYS):
        return None
    return loaded, private


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, readable by its owner only (`mkstemp` makes 0600)."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with open(handle, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except OSError:
        os.unlink(name)
        raise


@contextmanager
def _locked(path: Path) -> Generator[None]:
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600)) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
