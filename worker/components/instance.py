"""A component instance that runs: functions across the Canonical ABI, resources, and who may call
whom. It knows no engine: ``Machine`` is what it needs of one.

Source: component model, ``CanonicalABI.md`` ("canon lift", "canon lower", "canon resource.*").
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

from ..engines.interface import GuestTrap
from .abi import Codecs, FunctionCodec
from .handles import Crossing, HandleTable, Held, HostCrossing
from .heap import BadValue, Heap, TooMuch
from .plan import Builtin, Core, CoreExport, Lowered, Options, Plan

MAX_CALLS = 32
"""Calls from one component into another that may be under way at once: each takes some of the
thread's stack."""
_REALLOC = ("i32", "i32", "i32", "i32")

HostFunction = Callable[..., Any]
"""Takes wire values, one for each parameter, and gives one."""


class Machine(Protocol):
    """The core instances of one component."""

    def call(
        self, function: CoreExport, kind: tuple[tuple[str, ...], tuple[str, ...]], flats: list[Any]
    ) -> Sequence[Any]:
        """Call a core function of that type; integers are unsigned.

        Raises:
            GuestTrap: as the guest's own.
        """
        ...

    def view(self, memory: CoreExport) -> memoryview:
        """All of a memory, valid until the guest runs again."""
        ...


class Linked:
    """A plan with all that does not depend on one instance: made once for each component."""

    def __init__(
        self,
        plan: Plan,
        codecs: Codecs,
        imports: Sequence[HostFunction | None],
        drop: Callable[[str, str, int], None],
        provided: Sequence[bool],
    ) -> None:
        self.plan = plan
        self.imports = imports
        """The host's function for each lowering of an import."""
        self.drop = drop
        """Told of (interface, resource, representation) when the guest drops one of the host's."""
        self.provided = provided
        """For each kind of resource, whether it is one of the program's."""
        self.liftings = [FunctionCodec(codecs, lifting.signature) for lifting in plan.liftings]
        self.lowerings = [FunctionCodec(codecs, lowered.signature) for lowered in plan.lowerings]

    def builtin_type(self, index: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Core parameters and results of a builtin."""
        builtin = self.plan.builtins[index]
        return ("i32",) * builtin.params, ("i32",) * builtin.results


class ComponentInstance:
    """One instance, and those nested in it.

    Args:
        linked: what it is made of.
        machine: its core instances.
        room: bytes that values may take on their way between components and to the host.
    """

    def __init__(self, linked: Linked, machine: Machine, room: int) -> None:
        self._linked = linked
        self._machine = machine
        self._room = room
        self._tables: dict[int, HandleTable] = {}
        self._entered: set[int] = set()
        """Component instances that a call is in."""
        self._confined: set[int] = set()
        """Those whose code runs only to make room for a value, and may call nothing outside."""
        self._held = Held()
        """What the host has of its resources."""
        self._context: dict[tuple[int, int], int] = {}
        """What code keeps in its task, by component instance and place."""
        self._crossings: list[tuple[int, Crossing]] = []
        """The calls that are under way, with the instance that was called."""

    # --- calls ------------------------------------------------------------------------------------

    def call(self, index: int, values: Sequence[Any], room: int | None = None) -> Any:
        """Call a lifted function with wire values; its result's wire value.

        Raises:
            BadValue: the guest's answer is none of the function's type.
            TooMuch: it is more than ``room`` bytes, which the host's own calls are given.
            EngineRefusal: ``signature``: a resource of the host's is no longer there.
            GuestTrap: as the guest's own.
        """
        lifting, codec = self._linked.plan.liftings[index], self._linked.liftings[index]
        owner = lifting.owner
        if owner in self._entered:
            raise GuestTrap("cannot_enter_component", "a component was called while it is calling")
        if len(self._entered) == MAX_CALLS:
            raise GuestTrap("stack_overflow", f"more than {MAX_CALLS} components call each other")
        crossing = self._crossing(owner, self._held if room is not None else None)
        heap = self._heap(owner, lifting.options, crossing, self._room if room is None else room)
        self._entered.add(owner)
        self._crossings.append((owner, crossing))
        for key in [key for key in self._context if key[0] == owner]:
            del self._context[key]
        try:
            flats = codec.put_params(heap, values)
            results = self._core(lifting.function, codec.lifted, flats)
            if crossing.borrowed:
                raise GuestTrap("bad_value", "a call ended with handles that it was only lent")
            self._refresh(heap, lifting.options)
            value = codec.take_result(heap, results)
            if lifting.options.post_return is not None:
                with self._confining(owner):
                    self._core(lifting.options.post_return, (codec.lifted[1], ()), list(results))
            return value
        finally:
            self._crossings.pop()
            self._entered.discard(owner)
            crossing.end()

    def drop(self, resource: int, number: int) -> None:
        """The host drops a resource that it has.

        Raises:
            GuestTrap: of its destructor.
        """
        self._destroy(None, resource, self._held.take(resource, number))

    def lowered(self, index: int, flats: Sequence[Any]) -> list[Any]:
        """A guest calls a lowered function: its core results.

        Raises:
            GuestTrap: it may not, or not with these arguments.
        """
        lowering, codec = self._linked.plan.lowerings[index], self._linked.lowerings[index]
        owner = lowering.owner
        self._check_leaving(owner)
        crossing = self._crossing(owner)
        heap = self._heap(owner, lowering.options, crossing, self._room)
        with _as_trap():
            try:
                values = codec.take_params(heap, flats)
                if lowering.lifting is not None:
                    result = self.call(lowering.lifting, values)
                else:
                    function = self._linked.imports[index]
                    assert function is not None
                    result = function(*values)
            finally:
                crossing.end()
            self._refresh(heap, lowering.options)
            return codec.put_result(heap, result, flats)

    def builtin(self, index: int, flats: Sequence[int]) -> list[int]:
        """A guest calls a builtin: its core results.

        Raises:
            GuestTrap: it may not, or not with this handle.
        """
        builtin = self._linked.plan.builtins[index]
        self._check_leaving(builtin.owner)
        owner, operand = builtin.owner, builtin.operand
        with _as_trap():
            match builtin.kind:
                case "resource.new":
                    return [self._table(owner).add(operand, flats[0], owned=True)]
                case "resource.rep":
                    return [self._table(owner).get(operand, flats[0]).representation]
                case "resource.drop":
                    self._drop(owner, operand, flats[0])
                case "context.get":
                    return [self._context.get((owner, operand), 0)]
                case "context.set":
                    self._context[owner, operand] = flats[0]
                case kind:
                    raise GuestTrap("unsupported", f"{kind} is only for asynchronous functions")
        return []

    # --- parts ------------------------------------------------------------------------------------

    def _drop(self, owner: int, resource: int, number: int) -> None:
        dropped = self._table(owner).remove(resource, number)
        if not dropped.owned:
            for called, crossing in reversed(self._crossings):
                if called == owner:
                    crossing.borrowed -= 1
                    break
            return
        self._destroy(owner, resource, dropped.representation)

    def _destroy(self, owner: int | None, resource: int, representation: int) -> None:
        defined = self._linked.plan.resources[resource]
        if defined.owner is None:
            self._linked.drop(defined.interface, defined.name, representation)
        elif defined.destructor is not None:
            foreign = defined.owner != owner
            if foreign and defined.owner in self._entered:
                raise GuestTrap(
                    "cannot_enter_component", "its destructor is in a calling component"
                )
            if foreign and len(self._entered) == MAX_CALLS:
                raise GuestTrap("stack_overflow", "too many components call each other")
            if foreign:
                self._entered.add(defined.owner)
            try:
                self._core(defined.destructor, (("i32",), ()), [representation])
            finally:
                if foreign:
                    self._entered.discard(defined.owner)

    def _core(
        self, function: Core, kind: tuple[tuple[str, ...], tuple[str, ...]], flats: list[Any]
    ) -> Sequence[Any]:
        match function:
            case CoreExport():
                return self._machine.call(function, kind, flats)
            case Lowered(index):
                return self.lowered(index, flats)
            case Builtin(index):
                return self.builtin(index, flats)

    def _heap(self, owner: int, options: Options, crossing: Crossing, room: int) -> Heap:
        view = None if options.memory is None else partial(self._machine.view, options.memory)
        allocate = None
        if options.realloc is not None:
            allocate = partial(self._allocate, owner, options.realloc)
        return Heap(view, allocate, options.encoding, crossing, room)

    def _allocate(self, owner: int, realloc: Core, align: int, size: int) -> int:
        with self._confining(owner):
            place: int = self._core(realloc, (_REALLOC, ("i32",)), [0, 0, align, size])[0]
        return place

    def _refresh(self, heap: Heap, options: Options) -> None:
        if options.memory is not None:
            heap.data = self._machine.view(options.memory)

    def _table(self, owner: int) -> HandleTable:
        found = self._tables.get(owner)
        if found is None:
            found = self._tables[owner] = HandleTable()
        return found

    def _crossing(self, owner: int, held: Held | None = None) -> Crossing:
        resources, table = self._linked.plan.resources, self._table(owner)

        def owns(resource: int) -> bool:
            return resources[resource].owner == owner

        if held is None:
            return Crossing(table, owns)
        return HostCrossing(table, owns, held, self._linked.provided.__getitem__)

    def _check_leaving(self, owner: int) -> None:
        if owner in self._confined:
            raise GuestTrap("cannot_leave_component", "an allocator called a function from outside")

    @contextmanager
    def _confining(self, owner: int) -> Generator[None]:
        fresh = owner not in self._confined
        self._confined.add(owner)
        try:
            yield
        finally:
            if fresh:
                self._confined.discard(owner)


@contextmanager
def _as_trap() -> Generator[None]:
    """What a guest does wrong on its way out is a trap to it."""
    try:
        yield
    except BadValue as error:
        raise GuestTrap("bad_value", str(error)) from None
    except TooMuch:
        raise GuestTrap("bad_value", "a value takes more room than there is") from None
