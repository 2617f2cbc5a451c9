"""The wire over TLS, with a certificate of the test's own, directly and through a proxy."""

import datetime
import ipaddress
import json
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.standin.rogue import rogue, said

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from aloe_jax.errors import AloeError
from tests.llm.remotes import PROVIDERS, Asked
for provider in PROVIDERS:
    try:
        print(provider, Asked(provider, sys.argv[1], attempts=1, timeout=float(sys.argv[2])).complete().outcome)
    except AloeError as error:
        print(provider, error)
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Paths of a certificate for 127.0.0.1 that signs itself, and of its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    form, plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "certificate").write_bytes(made.public_bytes(form))
    (folder / "key").write_bytes(key.private_bytes(form, plain, serialization.NoEncryption()))
    return folder / "certificate", folder / "key"


@pytest.fixture
def address(certificate):
    """A server of TLS; its replies are both Gemini's and OpenAI's."""
    body = json.dumps(said("genai", "{}") | said("openai", "{}")).encode()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, _ = listening.accept()
                with context.wrap_socket(connection, server_side=True) as stream:
                    reader, length = stream.makefile("rb"), 0
                    while (line := reader.readline()) not in (b"\r\n", b""):
                        if line.lower().startswith(b"content-length:"):
                            length = int(line.split(b":")[1])
                    reader.read(length)
                    stream.sendall(
                        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
                    )
            except ssl.SSLError:
                continue
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    yield f"https://127.0.0.1:{listening.getsockname()[1]}"
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


def ask(address, timeout=10.0, **environment):
    """What each provider makes of a call, in a process of its own: certificates are read once a process."""
    given = {"MY_KEY": "k3y-Xq7vWm2Zt9-Rb4Yn8Lc1", "PATH": "", "PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, "-c", PROGRAM, address, str(timeout)]
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_known_certificate_is_trusted(address, certificate):
    assert ask(address, SSL_CERT_FILE=str(certificate[0])) == ["gemini ok", "genai ok", "openai ok"]


def test_an_unknown_certificate_is_not(address):
    lines = ask(address)
    assert len(lines) == 3 and all("connection lost" in line and "CERTIFICATE_VERIFY_FAILED" in line for line in lines)


def test_a_handshake_that_hangs_ends_with_the_timeout():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        lines = ask(f"https://127.0.0.1:{silent.getsockname()[1]}", 0.5)
    assert len(lines) == 3 and all("the last fault: timeout" in line for line in lines)


def test_a_proxy_is_asked_for_a_tunnel_and_sees_no_key(address, certificate):
    host, port = address.removeprefix("https://").split(":")

    def tunnel(seen):
        yield b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"

    with rogue(tunnel) as proxy:
        lines = ask(address, SSL_CERT_FILE=str(certificate[0]), https_proxy=proxy.url)
        assert all("connection lost" in line and "403" in line for line in lines)
        assert [seen.line for seen in proxy.seen] == [f"CONNECT {host}:{port} HTTP/1.1"] * 3
        assert "k3y" not in str(proxy.seen)
