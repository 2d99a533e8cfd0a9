"""A module whose calls keep crashing workers is refused for a while, to the tenant that it did it
to, with the certificates as the reason."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import guest_commands
import guests
import pytest
import trio
from cores import Driver, i32, run, serving
from native import PREFIX, native_workers

from wasm_sandbox import ConfigurationError, DeadlineExceeded, ModuleQuarantined, Pool, Quarantine
from wasm_sandbox.protocol.errors import SandboxError, WorkerLost
from wasm_sandbox.protocol.events import CallRefused
from wasm_sandbox.protocol.events import ModuleQuarantined as Quarantined
from wasm_sandbox.protocol.limits import Limits
from wasm_sandbox.protocol.receipts import DeathCertificate
from wasm_sandbox.supervisor.quarantine import COMPILING, MOST, Ward

ADD, OTHER = guests.add(), '(module (func (export "f")))'
POLICY = Quarantine(crashes=3, period=60.0, lasts=300.0)
MODULE = "ab" * 32
CRASH = DeathCertificate(
    worker=1, pid=2, cause="crashed", wall="kernel", phase="busy", signal=signal.SIGSEGV
)


def death(**changes: Any) -> DeathCertificate:
    return DeathCertificate(**{**_fields(CRASH), **changes})


def _fields(certificate: DeathCertificate) -> dict[str, Any]:
    return {name: getattr(certificate, name) for name in certificate.__struct_fields__}


# -- the decision, without a process --------------------------------------------------------------


def test_so_many_crashes_within_the_period_are_too_many() -> None:
    ward, key = Ward(POLICY), (None, MODULE)
    assert ward.died(key, CRASH, 0.0) is None
    assert ward.died(key, CRASH, 59.0) is None
    assert not ward.occupied
    assert ward.refusal(key, 59.0) is None
    refusal = ward.died(key, CRASH, 60.0)
    assert refusal is not None
    assert (refusal.sha256, refusal.seconds) == (MODULE, 300)
    assert refusal.certificates == (CRASH,) * 3
    assert "quarantine=None" in refusal.hint
    assert ward.occupied


def test_crashes_that_are_further_apart_are_forgiven() -> None:
    ward, key = Ward(POLICY), (None, MODULE)
    for now in (0.0, 40.0, 61.0, 101.0, 161.5, 201.5):
        assert ward.died(key, CRASH, now) is None


def test_quarantine_ends_and_all_is_forgotten() -> None:
    ward, key = Ward(POLICY), (None, MODULE)
    for now in (0.0, 1.0, 2.0):
        ward.died(key, CRASH, now)
    refusal = ward.refusal(key, 301.5)
    assert refusal is not None
    assert refusal.seconds == 1
    assert ward.refusal(key, 302.0) is None
    assert not ward.occupied
    assert ward.died(key, CRASH, 303.0) is None
    assert ward.died(key, CRASH, 304.0) is None


def test_a_tenant_cannot_have_another_tenants_module_refused() -> None:
    ward = Ward(POLICY)
    for now in range(100):
        ward.died(("mallory", MODULE), CRASH, float(now))
    assert ward.refusal(("mallory", MODULE), 100.0) is not None
    for key in (("alice", MODULE), (None, MODULE), (COMPILING, MODULE), ("mallory", "cd" * 32)):
        assert ward.refusal(key, 100.0) is None


@pytest.mark.parametrize(
    ("certificate", "counts"),
    [
        (death(signal=signal.SIGABRT), True),
        (death(signal=signal.SIGILL), True),
        (death(cause="exited", signal=None, exit_code=0), True),
        (death(cause="syscall_denied", signal=signal.SIGSYS), True),
        (death(cause="protocol_violation", signal=signal.SIGKILL), True),
        (death(signal=signal.SIGTERM), False),
        (death(signal=signal.SIGXFSZ), False),
        (death(signal=signal.SIGABRT, evidence="memory allocation of 8 bytes failed"), False),
        (death(cause="exited", exit_code=70, evidence="MemoryError"), False),
        (death(cause="out_of_memory", signal=signal.SIGKILL), False),
        (death(cause="killed", signal=signal.SIGKILL), False),
        (death(cause="deadline", signal=signal.SIGKILL), False),
        (death(cause="cpu_time", signal=signal.SIGKILL), False),
        (death(cause="cancelled", signal=signal.SIGKILL), False),
        (death(cause="recycled"), False),
        (death(cause="start_failed"), False),
    ],
)
def test_what_has_an_innocent_reading_does_not_count(
    certificate: DeathCertificate, counts: bool
) -> None:
    ward = Ward(Quarantine(crashes=1))
    assert (ward.died((None, MODULE), certificate, 0.0) is not None) is counts


def test_without_a_policy_nothing_is_refused() -> None:
    ward = Ward(None)
    assert all(ward.died((None, MODULE), CRASH, 0.0) is None for _ in range(100))
    assert not ward.occupied


def test_what_is_remembered_has_a_bound() -> None:
    suspects, patients = Ward(POLICY), Ward(Quarantine(crashes=1))
    for number in range(2 * MOST):
        for ward in (suspects, patients):
            ward.died((None, f"{number:064x}"), CRASH, 0.0)
    assert len(suspects._deaths) == len(patients._until) == len(patients._certificates) == MOST
    assert patients.refusal((None, f"{2 * MOST - 1:064x}"), 1.0) is not None


@pytest.mark.parametrize(
    "fields", [{"crashes": 0}, {"crashes": 1.5}, {"period": 0}, {"lasts": -1}, {"lasts": None}]
)
def test_a_policy_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Quarantine(**fields)
    assert caught.value.field == f"quarantine.{next(iter(fields))}"


# -- in a pool ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


async def crash(driver: Driver, module: Any, **more: Any) -> SandboxError:
    """Lose a worker to a call of ``module``."""
    request = driver.request(module, f"{PREFIX}crash:{{}}", returns_buffer=True, **more)
    error = (await driver.outcome(request)).error
    assert error is not None
    return error


def test_a_module_that_keeps_crashing_workers_is_refused_with_the_certificates(
    cache: Path,
) -> None:
    async def main() -> None:
        async with serving(cache, workers=1, quarantine=POLICY) as driver:
            module, other = await driver.load(ADD), await driver.load(OTHER)
            lost = [await crash(driver, module, tenant="a") for _ in range(3)]
            assert all(isinstance(error, WorkerLost) for error in lost)
            refused = await driver.call(module, "add", 1, 2, tenant="a")
            assert isinstance(refused.error, ModuleQuarantined)
            assert refused.error.sha256 == module.sha256.hex()
            guilty = [death for death in driver.deaths if death.modules]
            assert list(refused.error.certificates) == guilty
            assert refused.receipt.attempts == 0
            # Nobody else is touched: not the tenant's other modules, not the other tenants.
            assert (await driver.call(other, "f", tenant="a")).error is None
            assert i32(await driver.call(module, "add", 1, 2, tenant="b")) == 3
            assert i32(await driver.call(module, "add", 1, 2)) == 3
        (event,) = [event for event in driver.events if isinstance(event, Quarantined)]
        assert (event.tenant, event.sha256) == ("a", module.sha256.hex())
        assert event.certificates == refused.error.certificates
        (refusal,) = [event for event in driver.events if isinstance(event, CallRefused)]
        assert (refusal.tenant, refusal.reason) == ("a", "ModuleQuarantined")

    with native_workers():
        run(main)


def test_calls_that_wait_are_refused_too(cache: Path) -> None:
    async def main() -> None:
        async with serving(cache, workers=1, quarantine=Quarantine(crashes=2)) as driver:
            module = await driver.load(ADD)
            errors: list[SandboxError] = []

            async def one() -> None:
                errors.append(await crash(driver, module))

            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(one)
            lost = [error for error in errors if isinstance(error, WorkerLost)]
            assert len(lost) == 2
            assert len([e for e in errors if isinstance(e, ModuleQuarantined)]) == 18

    with native_workers():
        run(main)


def test_a_module_is_taken_again_when_its_quarantine_is_over(cache: Path) -> None:
    async def main() -> None:
        policy = Quarantine(crashes=1, lasts=3.0)
        async with serving(cache, workers=1, quarantine=policy) as driver:
            module = await driver.load(ADD)
            assert isinstance(await crash(driver, module), WorkerLost)
            assert isinstance(await crash(driver, module), ModuleQuarantined)
            with trio.fail_after(30):
                while (outcome := await driver.call(module, "add", 1, 2)).error is not None:
                    await trio.sleep(0.02)
            assert i32(outcome) == 3

    with native_workers():
        run(main)


def test_deadlines_and_kills_from_outside_bring_nobody_into_quarantine(cache: Path) -> None:
    async def main() -> None:
        async with serving(cache, workers=1, quarantine=Quarantine(crashes=1)) as driver:
            module = await driver.load(guest_commands.sleeps())
            late = await driver.call(module, "_start", limits=Limits(wall_time=0.1))
            assert isinstance(late.error, DeadlineExceeded)
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def kill() -> None:
                    worker = await driver.wait_for_worker("busy")
                    (begun,) = driver.core._seats.workers
                    while not begun.begun_clock():
                        await trio.sleep(0.002)
                    os.kill(worker.pid, signal.SIGKILL)

                killed = await driver.call(module, "_start")
                assert isinstance(killed.error, WorkerLost)
            causes = {death.cause for death in driver.deaths if death.modules}
            assert causes == {"deadline", "killed"}
            again = await driver.call(module, "_start", limits=Limits(wall_time=0.1))
            assert isinstance(again.error, DeadlineExceeded)

    run(main)


def test_a_pool_can_do_without(cache: Path) -> None:
    async def main() -> None:
        async with serving(cache, workers=1, quarantine=None) as driver:
            module = await driver.load(ADD)
            for _ in range(5):
                assert isinstance(await crash(driver, module), WorkerLost)

    with native_workers():
        run(main)


def test_a_module_that_keeps_crashing_the_compiler_is_not_compiled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from liars import FakeZygote

    from wasm_sandbox.supervisor import keeper

    monkeypatch.setattr(keeper, "Zygote", lambda: FakeZygote(("honest",), ("compile_dead",)))

    async def main() -> None:
        async with serving(workers=1, quarantine=POLICY) as driver:
            for _ in range(3):
                with pytest.raises(WorkerLost):
                    await driver.load(b"a module")
            with pytest.raises(ModuleQuarantined) as caught:
                await driver.load(b"a module")
            assert len(caught.value.certificates) == 3
            with pytest.raises(WorkerLost):
                await driver.load(b"another module")

    run(main)


def test_a_pool_has_a_quarantine_unless_told_otherwise(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool:
        assert pool.configuration.quarantine == Quarantine()
    with pytest.raises(ConfigurationError, match="quarantine"):
        Pool(1, cache_dir=cache, quarantine=3)  # type: ignore[arg-type]
