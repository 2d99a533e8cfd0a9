"""A result goes into a buffer of the caller's where one is given, in whatever pieces it crosses."""

from __future__ import annotations

import array
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import guests
import pytest

from wasm_sandbox import ConfigurationError, Limits, Module, OutputLimitExceeded, Pool
from wasm_sandbox.protocol import arena

BANK = arena.bank(arena.halves(arena.DEFAULT_SIZE)[2], 0)[1]
SIZES = (0, 1, 5000, 1 << 16, BANK - 1, BANK, BANK + 1, 2 * BANK, 2 * BANK + 1, 5 * BANK + 7)
LIMITS = Limits(memory=64 << 20, output=32 << 20)


@pytest.fixture(name="module", scope="module")
def module_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Module]:
    with Pool(1, cache_dir=tmp_path_factory.mktemp("cache"), limits=LIMITS) as pool:
        yield pool.load(guests.buffers().encode())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["echo", "pair"])
def test_it_is_filled_and_the_value_is_the_part_that_was(
    module: Module, name: str, size: int
) -> None:
    data, buffer = os.urandom(size), bytearray(size + 3)
    value = module[name].options(returns=buffer)(data)
    assert isinstance(value, memoryview)
    assert bytes(value) == buffer[:size] == data
    assert buffer[size:] == bytes(3)
    assert value.obj is buffer
    # Another call uses the same buffer, from its beginning.
    assert bytes(module[name].options(returns=buffer)(b"abc")) == b"abc"


@pytest.mark.parametrize("size", SIZES)
def test_without_one_new_bytes_are_made(module: Module, size: int) -> None:
    data = os.urandom(size)
    assert module["echo"].options(returns=bytes)(data) == data


@pytest.mark.parametrize("size", [4, BANK + 1])
def test_a_result_that_does_not_fit_is_too_much_output(module: Module, size: int) -> None:
    buffer = bytearray(size - 1)
    with pytest.raises(OutputLimitExceeded) as caught:
        module["echo"].options(returns=buffer)(bytes(size))
    assert (caught.value.used, caught.value.allowed) == (size, size - 1)
    assert bytes(module["echo"].options(returns=buffer)(b"abc"[: size - 1])) == b"abc"


def make_array() -> Any:
    return array.array("d", [0.0] * 4)


@pytest.mark.parametrize("make", [make_array, lambda: memoryview(bytearray(32))[:], bytearray])
def test_every_writable_buffer_will_do(module: Module, make: Callable[..., Any]) -> None:
    buffer = make(32) if make is bytearray else make()
    given = array.array("d", [1.5, 2.5, -3.0, 4.0]).tobytes()
    module["echo"].options(returns=buffer)(given)
    assert bytes(memoryview(buffer).cast("B")) == given


@pytest.mark.parametrize(
    "value", [b"read-only", memoryview(bytearray(8))[::2], "text", 7, object(), int]
)
def test_what_cannot_be_filled_is_refused(module: Module, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"options\.returns"):
        module["echo"].options(returns=value)


def test_the_future_of_a_submitted_call_gives_it_too(tmp_path: Path) -> None:
    with Pool(2, cache_dir=tmp_path, limits=LIMITS) as pool:
        echo = pool.load(guests.buffers().encode())["echo"]
        buffers = [bytearray(BANK + number) for number in range(4)]
        sent = [os.urandom(len(buffer)) for buffer in buffers]
        futures = [
            pool.submit(echo.options(returns=buffer), data)
            for buffer, data in zip(buffers, sent, strict=True)
        ]
        assert [bytes(future.result()) for future in futures] == sent
        assert list(map(bytes, buffers)) == sent
