"""X.509 as Outrider uses it: P-256 keys, certificate requests, and a trust anchor made of a public key.

Shared by whoever signs and whoever asks. Ed25519 keys would be shorter, but gRPC's TLS does not take them. It must not
know files, nor when a certificate is due.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from outrider.errors import InvalidRequest

__all__ = [
    "PrivateKey",
    "anchor",
    "authority_name",
    "certificate_of",
    "is_signed_by",
    "key_id",
    "key_pem",
    "load_key",
    "new_key",
    "pem",
    "point_of",
    "point_of_certificate",
    "request",
    "request_of",
    "sign",
    "spiffe_of",
    "usage",
]

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

#: Clocks of machines differ; certificates are valid from so long ago.
SKEW = timedelta(minutes=5)
_CURVE = ec.SECP256R1()


def new_key() -> PrivateKey:
    """A key for ECDSA over P-256."""
    return ec.generate_private_key(_CURVE)


def key_pem(key: PrivateKey) -> bytes:
    """A private key as PKCS #8 PEM, not encrypted: the file's mode guards it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_key(text: bytes) -> PrivateKey:
    """Raises `InvalidRequest` for anything else than an unencrypted P-256 key in PEM."""
    try:
        key = serialization.load_pem_private_key(text, password=None)
    except (ValueError, TypeError) as error:
        raise InvalidRequest(f"not a private key in PEM without a password: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != _CURVE.name:
        raise InvalidRequest("a private key must be of the curve P-256")
    return key


def pem(certificate: x509.Certificate) -> bytes:
    """A certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def certificate_of(text: bytes) -> x509.Certificate:
    """The first certificate of a PEM text. Raises `InvalidRequest`."""
    try:
        return x509.load_pem_x509_certificate(text)
    except ValueError:
        raise InvalidRequest("not a certificate in PEM") from None


def point_of(key: PublicKey) -> bytes:
    """A public key as a compressed point: 33 bytes."""
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)


def point_of_certificate(certificate: x509.Certificate) -> bytes:
    """The public key of a certificate as a compressed point; b"" for another kind of key."""
    key = certificate.public_key()
    return point_of(key) if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == _CURVE.name else b""


def key_id(key: PublicKey) -> str:
    """The first 16 hex digits of a public key's SHA-256: what people compare."""
    return hashlib.sha256(point_of(key)).hexdigest()[:16]


def authority_name(key: PublicKey) -> x509.Name:
    """The subject of the authority with this key: it follows from the key, so that the key alone names it."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Outrider authority {key_id(key)}")])


def anchor(point: bytes) -> bytes:
    """A certificate to trust, in PEM, for the authority with this public key.

    Verifying starts *from* an anchor, whose own signature nobody looks at (RFC 5280, section 6.1.1: a trust anchor is
    a name and a key): so 33 bytes in a token are as good as the certificate, which comes with the first answer. Raises
    `InvalidRequest` when the bytes are no point of the curve.
    """
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, point)
    except ValueError:
        raise InvalidRequest("the authority's key in the token is damaged; copy the whole line again") from None
    now = datetime.now(UTC)
    name = authority_name(key)
    return pem(
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key)
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .sign(new_key(), hashes.SHA256())
    )


def usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """What a key may be used for: signatures, and an authority's for certificates."""
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def request(key: PrivateKey, name: str) -> bytes:
    """A certificate request in PEM, signed with the key it is for. Who signs it decides about every name in it."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    asked = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return asked.public_bytes(serialization.Encoding.PEM)


def request_of(text: bytes) -> PublicKey:
    """The public key that a certificate request is for. Raises `InvalidRequest` when it is not signed with that key."""
    try:
        asked = x509.load_pem_x509_csr(text)
        key = asked.public_key()
        is_sound = asked.is_signature_valid
    except (ValueError, TypeError):
        raise InvalidRequest("not a certificate request in PEM") from None
    if not (is_sound and isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == _CURVE.name):
        raise InvalidRequest("a certificate request must be for a key of the curve P-256, and signed with it")
    return key


def sign(key: PrivateKey, data: bytes) -> bytes:
    """An ECDSA signature with SHA-256, DER."""
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def is_signed_by(key: PublicKey, data: bytes, signature: bytes) -> bool:
    """True when `sign` with the other half of this key made the signature of this data."""
    try:
        key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def spiffe_of(certificate: x509.Certificate) -> str:
    """The SPIFFE id in a certificate; empty when it has none, or more than one name of that kind."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    found = [uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if uri.startswith("spiffe://")]
    return found[0] if len(found) == 1 else ""
