"""Components in text form, for any WIT type."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ALLOCATOR = """
    (memory (export "memory") 1)
    (global $top (mut i32) (i32.const 1024))
    (func $realloc (export "realloc")
      (param $old i32) (param $had i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32)
      (local.set $at
        (i32.and
          (i32.add (global.get $top) (i32.sub (local.get $align) (i32.const 1)))
          (i32.sub (i32.const 0) (local.get $align))))
      (global.set $top (i32.add (local.get $at) (local.get $size)))
      (loop $more
        (if (i32.gt_u (global.get $top) (i32.mul (memory.size) (i32.const 65536)))
          (then
            (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
            (br $more))))
      (local.get $at))
"""
"""A memory, and an allocator that only ever takes more of it."""

OPTIONS = '(memory (core memory $i "memory")) (realloc (core func $i "realloc"))'
"""What a lift or a lowering needs that passes more than numbers."""

_LOADS = {
    "bool": "i32.load8_u",
    "u8": "i32.load8_u",
    "s8": "i32.load8_s",
    "u16": "i32.load16_u",
    "s16": "i32.load16_s",
    "u32": "i32.load",
    "s32": "i32.load",
    "char": "i32.load",
    "u64": "i64.load",
    "s64": "i64.load",
    "f32": "f32.load",
    "f64": "f64.load",
}

Kind = Any
"""A primitive's name, or ``(form, part, …)``:

``("list", kind)``, ``("option", kind)``, ``("tuple", kind, …)``, ``("result", kind | None, kind |
None)``, ``("record", (name, kind), …)``, ``("variant", (name, kind | None), …)``,
``("enum", name, …)``, ``("flags", name, …)``.
"""


@dataclass
class Definitions:
    """Type definitions, each with a name under which it is exported, as validation wants."""

    lines: list[str] = field(default_factory=list[str])
    known: dict[Kind, str] = field(default_factory=dict[Kind, str])

    def reference(self, kind: Kind) -> str:
        """The name of ``kind``, which is defined if need be."""
        if isinstance(kind, str):
            return kind
        if kind not in self.known:
            text = self._text(kind)
            number = len(self.known)
            self.lines.append(
                f'(type $t{number} {text}) (export $e{number} "t{number}" (type $t{number}))'
            )
            self.known[kind] = f"$e{number}"
        return self.known[kind]

    def optional(self, kind: Kind | None) -> str:
        """The same, or nothing for nothing."""
        return "" if kind is None else self.reference(kind)

    def _text(self, kind: tuple[Any, ...]) -> str:
        form, *parts = kind
        match form:
            case "list" | "option" | "tuple":
                return f"({form} {' '.join(self.reference(part) for part in parts)})"
            case "enum" | "flags":
                quoted = [f'"{name}"' for name in parts]
                return f"({form} {' '.join(quoted)})"
            case "record":
                fields = [f'(field "{name}" {self.reference(of)})' for name, of in parts]
                return f"(record {' '.join(fields)})"
            case "variant":
                cases = [f'(case "{name}" {self.optional(of)})' for name, of in parts]
                return f"(variant {' '.join(cases)})"
            case _:
                ok, error = parts
                text = self.optional(ok)
                if error is not None:
                    text += f" (error {self.reference(error)})"
                return f"(result {text})"


def flat(kind: Kind | None) -> int:
    """How many core values ``kind`` is."""
    if kind is None:
        return 0
    if isinstance(kind, str):
        return 2 if kind == "string" else 1
    form, *parts = kind
    match form:
        case "list":
            return 2
        case "option":
            return 1 + flat(parts[0])
        case "tuple":
            return sum(flat(part) for part in parts)
        case "record":
            return sum(flat(of) for _, of in parts)
        case "variant":
            return 1 + max(flat(of) for _, of in parts)
        case "result":
            return 1 + max(flat(part) for part in parts)
        case "flags":
            return -(-len(parts) // 32)
        case _:
            return 1


def load_instruction(kind: Kind) -> str:
    """The instruction that loads what is one core value."""
    if isinstance(kind, str):
        return _LOADS[kind]
    form, *parts = kind
    match form:
        case "record":
            return load_instruction(parts[0][1])
        case "tuple":
            return load_instruction(parts[0])
        case "flags":
            return (
                "i32.load8_u"
                if len(parts) <= 8
                else "i32.load16_u"
                if len(parts) <= 16
                else "i32.load"
            )
        case _:
            return "i32.load8_u"


def echo(kind: Kind, encoding: str = "utf8") -> str:
    """A component whose ``echo`` gives back its first argument.

    It has so many parameters that they cross in memory, and gives back the place where they are.
    """
    definitions = Definitions()
    name = definitions.reference(kind)
    padding = " ".join(f'(param "p{number}" u8)' for number in range(17))
    if flat(kind) > 1:
        result, body = "i32", "(local.get 0)"
    else:
        load = load_instruction(kind)
        result, body = load[:3], f"({load} (local.get 0))"
    return f"""
(component
  (core module $m {ALLOCATOR}
    (func (export "echo") (param i32) (result {result}) {body}))
  (core instance $i (instantiate $m))
  {" ".join(definitions.lines)}
  (func (export "echo") (param "a" {name}) {padding} (result {name})
    (canon lift (core func $i "echo") {OPTIONS} string-encoding={encoding})))
"""


PADDING = (0,) * 17
"""The other arguments of ``echo``."""
