"""A program that uses its SPIFFE identity through py-spiffe. Same commands and output as hardroot-workload."""

import argparse
import json
import os
import queue
import sys

from spiffe import JwtSvid, SpiffeId, WorkloadApiClient, X509Source
from spiffetls import ListenOptions, dial, listen
from spiffetls.mode import ClientTlsMode, ServerTlsMode
from spiffetls.tlsconfig.authorize import authorize_id


def say(**fields):
    try:
        print(json.dumps(fields), flush=True)
    except BrokenPipeError:  # nobody reads any more: the test is over
        os._exit(0)


def describe(context):
    svids = [
        {
            "spiffe_id": str(svid.spiffe_id),
            "hint": svid.hint if hasattr(svid, "hint") else "",
            "serial": str(svid.leaf.serial_number),
            "expires_at": int(svid.leaf.not_valid_after_utc.timestamp()),
        }
        for svid in context.x509_svids
    ]
    return {"svids": svids, "bundles": len(list(context.x509_bundle_set.bundles))}


def fetch(options):
    with WorkloadApiClient(socket_path=options.endpoint) as client:
        say(**describe(client.fetch_x509_context(timeout=options.timeout)))


def must_fail(what, act):
    try:
        act()
    except Exception:
        return
    raise AssertionError(what)


def jwt(options):
    """Fetches a token and has it validated twice: here with the bundle that the Workload API gives, and by the Workload API."""
    mine, other = {options.audience}, {"another"}
    with WorkloadApiClient(socket_path=options.endpoint) as client:
        svid = client.fetch_jwt_svid(audience=mine, timeout=options.timeout)
        bundles = client.fetch_jwt_bundles(timeout=options.timeout)
        bundle = bundles.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        valid = JwtSvid.parse_and_validate(svid.token, bundle, mine)
        must_fail("it is for everybody", lambda: JwtSvid.parse_and_validate(svid.token, bundle, other))
        client.validate_jwt_svid(svid.token, options.audience, timeout=options.timeout)
        must_fail(
            "the Workload API says it is for everybody",
            lambda: client.validate_jwt_svid(svid.token, "another", timeout=options.timeout),
        )
    say(spiffe_id=str(valid.spiffe_id), audience=sorted(valid.audience))


def watch(options):
    updates = queue.Queue()
    client = WorkloadApiClient(socket_path=options.endpoint)
    handle = client.stream_x509_contexts(updates.put, updates.put)
    try:
        for _ in range(options.count):
            update = updates.get(timeout=options.timeout)
            if isinstance(update, Exception):
                raise update
            say(**describe(update))
    finally:
        handle.cancel()
        client.close()


def peer_of(connection):
    certificate = connection.get_peer_certificate().to_cryptography()
    from cryptography import x509

    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)[0]


def read_line(connection):
    line = b""
    while not line.endswith(b"\n"):
        line += connection.recv(1024)
    return line.decode()


def serve(options):
    source = X509Source(socket_path=options.endpoint, timeout_in_seconds=options.timeout)
    settings = ListenOptions(
        tls_mode=ServerTlsMode.MTLS, authorize_fn=authorize_id(SpiffeId(options.expect))
    )
    listener = listen(options.listen, source, settings)
    host, port = listener.getsockname()
    say(listening=f"{host}:{port}")
    while True:
        connection, _ = listener.accept()
        try:
            connection.do_handshake()
            peer = peer_of(connection)
            connection.sendall(f"{peer} said: {read_line(connection)}".encode())
            connection.shutdown()
            say(served=peer)
        except Exception as error:  # one bad caller does not end the service
            say(refused=repr(error))
        finally:
            connection.close()


def call(options):
    source = X509Source(socket_path=options.endpoint, timeout_in_seconds=options.timeout)
    connection = dial(
        options.connect, source, ClientTlsMode.TLS, authorize_id(SpiffeId(options.expect))
    )
    connection.sendall(b"hello\n")
    say(peer=peer_of(connection), answer=read_line(connection))
    connection.close()
    source.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["fetch", "jwt", "watch", "serve", "call"])
    parser.add_argument("--socket", required=True)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--audience")
    parser.add_argument("--listen")
    parser.add_argument("--connect")
    parser.add_argument("--expect")
    parser.add_argument("--timeout", type=int, default=20)
    options = parser.parse_args()
    options.endpoint = f"unix://{options.socket}"
    try:
        {"fetch": fetch, "jwt": jwt, "watch": watch, "serve": serve, "call": call}[options.command](options)
    except Exception as error:
        say(error=repr(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
