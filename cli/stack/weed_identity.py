"""Who may talk to SeaweedFS but by S3: SeaweedFS itself, by a certificate that nobody else has.

Its master, filer and volume servers know no passwords: whoever reaches their ports, over HTTP or gRPC, reads and
writes everything. All of them run in one process, so one certificate, signed by itself, is what they show and what they
ask for. It is made anew at each start.
"""

from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cli.stack.private_files import write_private

# Of `weed scaffold -config=security`; a server that is not named here would listen without TLS.
_GRPC = ("admin", "client", "filer", "master", "mq", "msg_agent", "msg_broker", "s3", "volume", "worker")
_HTTPS = ("admin", "client", "filer", "master", "volume")
_VALID = datetime(1970, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC)  # whatever the clock says


def write_identity(folder: Path) -> None:
    """Write key, certificate and `security.toml`, which weed reads where it is started, into a folder."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "zimage up")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_VALID[0])
        .not_valid_after(_VALID[1])
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    write_private(folder / "tls.crt", certificate.public_bytes(Encoding.PEM).decode())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(folder / "tls.key", pem.decode())
    write_private(folder / "security.toml", _settings())


def _settings() -> str:
    shown, asked = 'cert = "tls.crt"\nkey = "tls.key"\n', 'ca = "tls.crt"\n'
    sections = [f"[grpc]\n{asked}", *(f"[grpc.{name}]\n{shown}" for name in _GRPC)]
    sections += [f"[https.{name}]\n{shown}{asked}" for name in _HTTPS]
    return "\n".join(sections).replace("[https.client]\n", "[https.client]\nenabled = true\n")
