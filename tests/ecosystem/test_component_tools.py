"""Components that nobody built for this library: Python by componentize-py, JavaScript by
componentize-qjs and ComponentizeJS, from the sources in ``examples/guests/components``."""

import socketserver
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pytest
from ecosystem import components, real_modules
from fakes import until

from wasm_sandbox import (
    Capabilities,
    Err,
    Filesystem,
    Limits,
    Module,
    Network,
    Ok,
    Pool,
    Trap,
    Variant,
    WitError,
)

# The longest step is to compile CPython: half a minute on two cores, more where they are busy.
pytestmark = [pytest.mark.ecosystem, pytest.mark.timeout(900)]

LIMITS = Limits(
    wall_time=60.0,
    cpu_time=60.0,
    compile_time=600.0,
    compile_memory=4 << 30,
    module_size=64 << 20,
)
SHAPES = "docs:geometry/shapes@0.1.0"
BUILDS: dict[str, Callable[[], Path]] = {
    "componentize-py": components.python_geometry,
    "componentize-qjs": partial(components.quickjs, "geometry"),
    "ComponentizeJS": partial(components.starlingmonkey, "geometry"),
}
TILLS: dict[str, Callable[[], Path]] = {
    "componentize-py": components.python_till,
    "componentize-qjs": partial(components.quickjs, "till"),
    "ComponentizeJS": partial(components.starlingmonkey, "till"),
}


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(workers=1, limits=LIMITS, cache_dir=real_modules.CACHE / "artifacts") as pool:
        yield pool


def available(get: Callable[[], Path]) -> Path:
    try:
        return get()
    except real_modules.Unavailable as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="module", params=list(BUILDS))
def geometry(pool: Pool, request: pytest.FixtureRequest) -> Module:
    return pool.load(available(BUILDS[request.param]))


@pytest.fixture(scope="module")
def words(pool: Pool) -> Module:
    return pool.load(available(components.python_words))


def test_values_of_all_kinds_cross(geometry: Module) -> None:
    double, bounds = geometry[f"{SHAPES}#double"], geometry[f"{SHAPES}#bounds"]
    assert geometry["greet"]("Wörld") == "Hello, Wörld"
    assert geometry[f"{SHAPES}#mirror"]({"x": 1, "y": -2}) == {"x": -2, "y": 1}
    assert double(Variant("circle", 4)) == Variant("circle", 8)
    assert double(Variant("square", {"x": 1, "y": 2})) == Variant("square", {"x": 2, "y": 4})
    assert double(Variant("nothing")) == Variant("nothing")
    assert geometry[f"{SHAPES}#divide"](7, 2) == Ok(3)
    assert geometry[f"{SHAPES}#divide"](7, 0) == Err("division by zero")
    assert bounds([]) is None
    assert bounds([{"x": 1, "y": 5}, {"x": -3, "y": 9}]) == ({"x": -3, "y": 5}, {"x": 1, "y": 9})


def test_the_world_is_the_one_that_it_was_built_for(geometry: Module) -> None:
    interface = (geometry.wit or "").partition(f"  export {SHAPES}: ")[2]
    assert interface == (
        "interface {\n"
        "    record point { x: s32, y: s32 }\n"
        "    variant shape { circle(u32), square(point), nothing }\n"
        "    mirror: func(p: point) -> point;\n"
        "    double: func(s: shape) -> shape;\n"
        "    divide: func(a: s32, b: s32) -> result<s32, string>;\n"
        "    bounds: func(points: list<point>) -> option<tuple<point, point>>;\n"
        "  }\n"
        "}"
    )


class Receipt:
    """A resource that the tills get."""

    def __init__(self, customer: str) -> None:
        self.customer = customer
        self.cents = 0
        self.closed = 0

    def add(self, article: dict[str, Any]) -> None:
        self.cents += article["cents"]

    def total(self) -> int:
        return self.cents

    def close(self) -> None:
        self.closed += 1


CENTS = {"tea": 250, "gum": 90}


def price(name: str) -> Ok:
    if name not in CENTS:
        raise WitError(f"there is no {name}")
    return Ok({"name": name, "cents": CENTS[name]})


def on_offer(names: list[str]) -> list[dict[str, Any]]:
    return [price(name).value for name in names]


@pytest.fixture(scope="module", params=list(TILLS))
def till(pool: Pool, request: pytest.FixtureRequest) -> Module:
    given: dict[str, Any] = {"price": price, "on_offer": on_offer, "receipt": Receipt}
    return pool.load(available(TILLS[request.param]), imports={"docs:till/prices": given})


def test_an_interface_of_the_program_is_called(till: Module) -> None:
    value, receipt = till["order"].detailed("Ada", ["tea", "tea"])
    assert value == Ok(500)
    assert receipt.host_calls >= 6
    assert till["order"]("Ada", ["tea", "gin"]) == Err("there is no gin")
    assert till["bargains"](["tea", "gum"]) == [{"name": "gum", "cents": 90}]


def test_exports_take_and_give_a_resource_of_the_program(pool: Pool, till: Module) -> None:
    receipt = Receipt("Ada")
    assert till["carry-on"](receipt, ["tea", "gum"]) is receipt
    with pool.instance(till) as instance:
        assert instance.call("carry-on", receipt, ["gum"]) is receipt
    assert receipt.closed == 0
    assert till["finish"](receipt) == 430
    until(lambda: receipt.closed == 1)


@pytest.mark.parametrize("till", ["componentize-py", "ComponentizeJS"], indirect=True)
def test_exports_are_lent_a_resource_of_the_program(pool: Pool, till: Module) -> None:
    """Not by componentize-qjs, which does not drop what its exports were lent."""
    receipt = Receipt("Ada")
    assert till["add"](receipt, "tea") == 250
    with pool.instance(till) as instance:
        assert instance.call("add", receipt, "gum") == 340
    assert receipt.closed == 0


def test_a_command_is_run_as_any_other(pool: Pool, words: Module) -> None:
    done = pool.run(words, stdin=b"to be or not to be", env={"LABEL": "counted"})
    assert (done.exit_code, done.stdout, done.stderr) == (0, b"counted 6\n", b"")
    done = pool.run(words)
    assert (done.exit_code, done.stdout, done.stderr) == (1, b"words 0\n", b"nothing to count\n")


def test_files_are_those_that_were_granted(pool: Pool, words: Module, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("to be or not")
    granted = Capabilities(filesystem=Filesystem.read_only(tmp_path, at="/data"))
    done = pool.run(words, "/data/text", capabilities=granted)
    assert (done.exit_code, done.stdout) == (0, b"words 4\n")
    assert done.receipt.bytes_read == 12
    for name in ("/data/../text", "/etc/passwd"):
        with pytest.raises(Trap):  # componentize-py's answer to a Python exception
            pool.run(words, name, capabilities=granted)


class Web(BaseHTTPRequestHandler):
    """Tells what it was asked, the other way round."""

    def do_GET(self) -> None:
        self._answer(self.path.encode())

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, asked: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(asked)))
        self.end_headers()
        self.wfile.write(asked[::-1])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nobody reads it."""


class Mirror(socketserver.BaseRequestHandler):
    """Says what it was told, the other way round."""

    def handle(self) -> None:
        self.request.sendall(self.request.recv(100)[::-1])


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[int]:
    """Run a server; its port."""
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield cast("tuple[str, int]", server.server_address)[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_fetch_of_javascript_goes_where_it_is_granted(pool: Pool) -> None:
    module = pool.load(available(partial(components.starlingmonkey, "fetch")))
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Web)) as port:
        granted = Capabilities(network=Network.loopback(port))
        get, post, race = (
            module[name].options(capabilities=granted) for name in ("get", "post", "race")
        )
        site = f"http://127.0.0.1:{port}"
        assert get(f"{site}/path?query") == Ok((200, "yreuq?htap/"))
        assert post(site, "a body") == Ok((200, "ydob a"))
        assert race([f"{site}/same", f"{site}/same"]) == Ok("emas/")
        assert isinstance(get("http://example.org/"), Err)
        assert isinstance(module["get"](site), Err)


def test_python_fetches_and_talks_where_it_is_granted(pool: Pool) -> None:
    module = pool.load(available(components.python_talk))
    with (
        serving(ThreadingHTTPServer(("127.0.0.1", 0), Web)) as web,
        serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mirror)) as mirror,
    ):
        granted = Capabilities(network=Network.loopback())
        get, talk = (module[name].options(capabilities=granted) for name in ("get", "talk"))
        assert get(f"127.0.0.1:{web}", "/path") == Ok((200, "htap/"))
        assert get("example.org", "/") == Err("ErrorCode_HttpRequestDenied")
        assert talk("localhost", mirror, "hello") == Ok("olleh")
        assert isinstance(talk("example.org", 80, "hello"), Err)
        assert isinstance(module["talk"]("localhost", mirror, "hello"), Err)
