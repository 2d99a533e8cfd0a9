"""Guests have no sockets. What they may reach, the supervisor fetches for them."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from wasm_sandbox import Capabilities, Event, Network, Pool

GUESTS = Path(__file__).resolve().parent / "guests"


class Greeter(BaseHTTPRequestHandler):
    """A server on this machine."""

    def do_GET(self) -> None:
        if self.path == "/hello":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"Hello from the host!\n")
        else:  # a way in, if the guest's requests were not checked each
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest/meta-data/")
            self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def show(event: Event) -> None:
    """Print the decisions about the network."""
    if type(event).__name__.startswith("Network"):
        print("   ", event)


def main() -> None:
    with HTTPServer(("127.0.0.1", 0), Greeter) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://localhost:{server.server_port}"
        granted = Capabilities(network=Network.loopback(ports=server.server_port))
        with Pool(workers=1, on_event=show) as pool:
            fetch = pool.load(GUESTS / "fetch.wasm")

            print("granted:")
            done = pool.run(fetch, f"{here}/hello", capabilities=granted, check=True)
            print(done.stdout.decode(), end="")
            print(f"{done.receipt.network_received} bytes received")

            print("not granted:")
            print(pool.run(fetch, f"{here}/hello").stderr.decode(), end="")

            print("redirected to what is not granted:")
            print(pool.run(fetch, "-L", f"{here}/moved", capabilities=granted).stderr.decode())
        server.shutdown()


if __name__ == "__main__":
    main()
