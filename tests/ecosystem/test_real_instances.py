"""Libraries that nobody built for this library live on as instances: interpreters of Ruby and of
JavaScript, which call host functions, and gofmt."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ecosystem import real_modules
from ecosystem.drivers import JavaScriptError, QuickJS, Ruby, RubyError, gofmt, load_ruby

from wasm_sandbox import (
    Capabilities,
    DeadlineExceeded,
    Filesystem,
    HostFunctionError,
    Instance,
    Limits,
    MissingImport,
    Module,
    Pool,
)

# The longest step is to compile Ruby: half a minute on two cores, more where they are busy.
pytestmark = [pytest.mark.ecosystem, pytest.mark.timeout(900)]

MIB = 1 << 20
LIMITS = Limits(
    memory=192 * MIB,
    wall_time=60.0,
    cpu_time=60.0,
    compile_time=600.0,
    compile_memory=4096 * MIB,
    module_size=64 * MIB,
)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(workers=1, limits=LIMITS, cache_dir=real_modules.CACHE / "artifacts") as pool:
        yield pool


def available(get: Callable[[], Path]) -> Path:
    try:
        return get() / "package"
    except real_modules.Unavailable as error:
        pytest.fail(str(error), pytrace=False)


# -- Ruby ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ruby_wasm() -> Path:
    return available(real_modules.RUBY.folder) / "dist" / "ruby.wasm"


@pytest.fixture(scope="module", params=["imports", "worker_imports"])
def ruby_module(pool: Pool, ruby_wasm: Path, request: pytest.FixtureRequest) -> Module:
    return load_ruby(pool, ruby_wasm, request.param)


def make(instance: Instance) -> Ruby:
    ruby = Ruby(instance)
    ruby.start("ruby.wasm", "-EUTF-8", "-e_=0")
    return ruby


@pytest.fixture(scope="module")
def ruby(pool: Pool, ruby_module: Module) -> Iterator[Ruby]:
    """An interpreter that the tests share, each with variables of its own."""
    with pool.instance(ruby_module) as instance:
        yield make(instance)


def test_ruby_keeps_its_state_from_call_to_call(ruby: Ruby) -> None:
    assert ruby.evaluate("RUBY_VERSION") == '"3.4.1"'
    assert ruby.evaluate("$words = %w[to be or not to be]; $words.tally") == (
        '{"to" => 2, "be" => 2, "or" => 1, "not" => 1}'
    )
    assert ruby.evaluate("def $words.twice = self + self") == ":twice"
    assert ruby.evaluate("$words.twice.size") == "12"
    assert ruby.evaluate("'Zürich'.upcase") == '"ZÜRICH"'
    assert ruby.evaluate("2 ** 100") == str(2**100)


def test_ruby_collects_garbage_and_switches_fibers_in_an_instance(ruby: Ruby) -> None:
    ruby.evaluate("$kept = (1..200_000).map { |n| 'x' * (n % 50) }; GC.start")
    assert ruby.evaluate("$kept.sum(&:size)") == str(sum(n % 50 for n in range(1, 200_001)))
    ruby.evaluate("$fiber = Fiber.new { n = 0; loop { Fiber.yield(n += 1) } }; nil")
    assert [ruby.evaluate("$fiber.resume") for _ in range(3)] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise 'no luck'", "#<RuntimeError: no luck>"),
        ("1 / 0", "#<ZeroDivisionError: divided by 0>"),
        ("(1", "syntax error"),
        ("def f(n) = f(n + 1) + 1; f(0)", "SystemStackError"),
        ("'x' * (1 << 29)", "NoMemoryError"),
        ("File.read('/etc/passwd')", "Errno::E"),
    ],
)
def test_what_ruby_raises_is_told_and_leaves_it_alive(ruby: Ruby, code: str, said: str) -> None:
    with pytest.raises(RubyError) as error:
        ruby.evaluate(code)
    assert said in str(error.value)
    assert ruby.evaluate("40 + 2") == "42"
    assert ruby.instance.usage().restarts == 0


def test_ruby_asks_the_host_where_the_handles_are_kept(ruby: Ruby, ruby_module: Module) -> None:
    before = ruby.instance.usage().host_calls
    ruby.evaluate("nil")
    asked = ruby.instance.usage().host_calls - before
    assert bool(asked) == (not ruby_module.handle.helpers)


def test_what_ruby_prints_is_heard(pool: Pool, ruby_module: Module) -> None:
    heard: list[tuple[int, bytes]] = []
    with pool.instance(ruby_module, on_output=lambda *piece: heard.append(piece)) as instance:
        ruby = make(instance)
        heard.clear()
        ruby.evaluate("puts('hello'); $stdout.flush; warn('careful')")
    assert heard == [(1, b"hello\n"), (2, b"careful\n")]


def test_a_loop_in_ruby_ends_at_the_deadline_and_concerns_no_other(
    pool: Pool, ruby_module: Module, ruby: Ruby
) -> None:
    ruby.evaluate("$mine = 1")
    with pool.instance(ruby_module) as instance, pytest.raises(DeadlineExceeded):
        make(instance).evaluate("loop {}", timeout=1.0)
    assert ruby.evaluate("$mine") == "1"


def test_ruby_is_made_anew_for_a_worker_that_was_killed(pool: Pool, ruby_module: Module) -> None:
    def rebuild(instance: Instance) -> None:
        make(instance).evaluate("$count = 100")

    with pool.instance(ruby_module, on_restart=rebuild) as instance:
        ruby = make(instance)
        assert ruby.evaluate("$count = 1") == "1"
        pid = instance.usage().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        while instance.usage().restarts == 0:
            time.sleep(0.002)
        assert ruby.evaluate("$count += 1") == "101"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Ruby is granted as ``/given``."""
    folder = tmp_path_factory.mktemp("given")
    folder.chmod(0o755)
    (folder / "words.txt").write_text("to be")
    (folder / "tool.rb").write_text("module Tool\n  def self.twice(text) = text * 2\nend\n")
    return folder


@pytest.fixture(scope="module")
def warm_ruby(pool: Pool, folder: Path) -> Module:
    """A snapshot of Ruby with its standard library, parts of which are loaded, and of a granted
    folder that it knows."""
    wasm = available(real_modules.RUBY.folder) / "dist" / "ruby+stdlib.wasm"
    module = load_ruby(pool, wasm, "imports")
    with pool.instance(module, capabilities=granted(folder)) as instance:
        ruby = make(instance)
        ruby.evaluate("require 'json'; require 'set'; require '/given/tool.rb'")
        ruby.evaluate("$seen = JSON.parse('{\"n\": [1, 2, 3]}'); $count = 0; GC.start")
        snapshot = instance.snapshot()
        assert ruby.evaluate("$count += 1") == "1"
    return load_ruby(pool, snapshot, "imports")


def granted(folder: Path) -> Capabilities:
    return Capabilities(filesystem=Filesystem.read_write(str(folder), at="/given"))


def test_ruby_begins_where_its_snapshot_was_made(
    pool: Pool, warm_ruby: Module, folder: Path
) -> None:
    for _ in range(2):
        with pool.instance(warm_ruby, capabilities=granted(folder)) as instance:
            ruby = Ruby(instance)
            assert ruby.evaluate("$seen['n'].sum + ($count += 1)") == "7"
            assert ruby.evaluate("JSON.generate(Set.new([1, 1, 2]).to_a)") == '"[1,2]"'
            assert ruby.evaluate("require 'stringio'; StringIO.new('a b').read.split.size") == "2"
            assert ruby.evaluate("Tool.twice(File.read('/given/words.txt'))") == '"to beto be"'
            with pytest.raises(RubyError, match="no luck"):
                ruby.evaluate("raise 'no luck'")
            ruby.evaluate("$kept = (1..100_000).map(&:to_s); GC.start")
            assert ruby.evaluate("$kept.sum(&:size)") == "488895"


def test_a_restart_of_a_warmed_ruby_begins_with_its_snapshot(
    pool: Pool, warm_ruby: Module, folder: Path
) -> None:
    with pool.instance(warm_ruby, capabilities=granted(folder)) as instance:
        ruby = Ruby(instance)
        ruby.evaluate("File.write('/given/out.txt', $seen.to_s)")
        assert (folder / "out.txt").read_text() == '{"n" => [1, 2, 3]}'
        pid = instance.usage().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        while instance.usage().restarts == 0:
            time.sleep(0.002)
        assert ruby.evaluate("$count += 1") == "1"


def test_without_a_host_ruby_is_no_instance(pool: Pool, ruby_wasm: Path) -> None:
    with pytest.raises(MissingImport, match="rb-js-abi-host"):
        pool.instance(pool.load(ruby_wasm))


# -- JavaScript ------------------------------------------------------------------------------------


class Host:
    """What QuickJS asks of its host."""

    def __init__(self) -> None:
        self.called: list[tuple[str, int]] = []
        self.answers: list[int] = []
        """Values of the interpreter's, the next to be returned last."""
        self.patience = 0
        """How often a program that does not end is allowed to go on."""

    def call(self, name: str, _this: int, count: int, _arguments: int) -> int:
        self.called.append((name, count))
        return self.answers.pop()

    def interrupts(self) -> bool:
        self.patience -= 1
        return self.patience < 0


@pytest.fixture(scope="module")
def host() -> Host:
    return Host()


Lent = dict[str, dict[str, Callable[..., object]]]


@pytest.fixture(scope="module")
def lent(host: Host) -> Lent:
    """What QuickJS imports."""

    def zone(_high: int, _low: int) -> int:
        return 3600

    def refuse(*_: int) -> int:
        raise NotImplementedError

    def ignore(_promise: int, _reason: int, _handled: int) -> None:
        pass

    functions: dict[str, Callable[..., object]] = {
        "host_call": host.call,
        "host_interrupt": host.interrupts,
        "host_get_timezone_offset": zone,
        "host_promise_rejection": ignore,
        "host_module_normalize": refuse,
        "host_module_load": refuse,
    }
    return {"env": functions}


@pytest.fixture(scope="module")
def quickjs(pool: Pool, lent: Lent) -> Module:
    wasm = available(real_modules.QUICKJS.folder) / "quickjs.wasm"
    return pool.load(wasm, imports=lent)


@pytest.fixture
def javascript(pool: Pool, quickjs: Module) -> Iterator[QuickJS]:
    with pool.instance(quickjs) as instance:
        interpreter = QuickJS(instance)
        interpreter.start()
        yield interpreter


def test_a_snapshot_of_javascript_keeps_its_heap(
    pool: Pool, javascript: QuickJS, lent: Lent
) -> None:
    javascript.evaluate("var primes = new Set([2, 3, 5]), twice = (n) => 2 * n; 0")
    warm = pool.load(javascript.instance.snapshot(), imports=lent)
    for _ in range(2):
        with pool.instance(warm) as instance:
            again = QuickJS(instance)
            assert again.evaluate("primes.add(7); twice([...primes].length)") == "8"
    assert javascript.evaluate("primes.size") == "3"


def test_javascript_keeps_its_state_from_call_to_call(javascript: QuickJS) -> None:
    assert javascript.evaluate("var n = 20; const add = (m) => (n += m); add(1)") == "21"
    assert javascript.evaluate("JSON.stringify({n, text: 'Zürich'})") == '{"n":21,"text":"Zürich"}'


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("throw new TypeError('no luck')", "TypeError: no luck"),
        ("nothing", "ReferenceError: nothing is not defined"),
        ("1 +", "SyntaxError"),
        ("(function f() { f() })()", "stack size exceeded"),
    ],
)
def test_what_javascript_throws_is_told_and_leaves_it_alive(
    javascript: QuickJS, code: str, said: str
) -> None:
    with pytest.raises(JavaScriptError, match=said):
        javascript.evaluate(code)
    assert javascript.evaluate("40 + 2") == "42"


def test_javascript_calls_functions_of_this_program(javascript: QuickJS, host: Host) -> None:
    javascript.listen("price")
    host.answers = [javascript.number(12.5)]
    assert javascript.evaluate("price('ACME', 3) * 2") == "25"
    assert host.called[-1] == ("price", 2)
    assert javascript.evaluate("new Date(2024, 0, 1).getTimezoneOffset()") == "-60"
    with pytest.raises(HostFunctionError) as error:
        javascript.evaluate("price()")
    assert isinstance(error.value.__cause__, IndexError)


def test_a_loop_in_javascript_ends_when_the_host_says_so(javascript: QuickJS, host: Host) -> None:
    javascript.instance.call("qjs_set_interrupt_handler", 1)
    host.patience = 5
    with pytest.raises(JavaScriptError, match="interrupted"):
        javascript.evaluate("for (;;) {}", timeout=60.0)
    host.patience = 5
    assert javascript.evaluate("40 + 2") == "42"


def test_a_loop_in_javascript_ends_at_the_deadline(javascript: QuickJS) -> None:
    with pytest.raises(DeadlineExceeded):
        javascript.evaluate("for (;;) {}", timeout=1.0)


def test_functions_of_a_library_are_called_in_fresh_instances(pool: Pool, quickjs: Module) -> None:
    assert list(pool.map(quickjs["pow"], [2.0, 3.0, 10.0], [10.0, 3.0, -1.0])) == [1024, 27, 0.1]
    assert len({quickjs["wasm_malloc"](1000) for _ in range(3)}) == 1


# -- Go --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def formatter(pool: Pool) -> Iterator[Instance]:
    wasm = available(real_modules.GOFMT.folder) / "gofmt.wasm"
    with pool.instance(pool.load(wasm)) as instance:
        yield instance


def test_gofmt_formats_one_program_after_the_other(formatter: Instance) -> None:
    for name in ("x", "longer_name"):
        source = f"package  main\nfunc main( ) {{\n{name}:=1}}\n".encode()
        tidy = f"package main\n\nfunc main() {{\n\t{name} := 1\n}}\n".encode()
        assert gofmt(formatter, source) == tidy
        assert gofmt(formatter, tidy) == tidy
    with pytest.raises(SyntaxError, match="expected"):
        gofmt(formatter, b"package main\nfunc {")


def test_gofmt_formats_a_large_program(formatter: Instance) -> None:
    lines = b"".join(b"\tf(%d)\n" % number for number in range(20_000))
    source = b"package main\n\nfunc main() {\n" + lines + b"}\n"
    assert gofmt(formatter, source.replace(b"\t", b"  ")) == source
