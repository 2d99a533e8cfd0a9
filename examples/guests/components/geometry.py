"""``geometry.wit`` in Python, for componentize-py::

componentize-py -d geometry.wit -w geometry componentize geometry -o geometry.wasm
"""

import wit_world
from componentize_py_types import Err
from wit_world import exports
from wit_world.exports import shapes
from wit_world.exports.shapes import Point, Shape_Circle, Shape_Square


class Shapes(exports.Shapes):
    def mirror(self, p: Point) -> Point:
        return Point(p.y, p.x)

    def double(self, s: shapes.Shape) -> shapes.Shape:
        match s:
            case Shape_Circle(radius):
                return Shape_Circle(2 * radius)
            case Shape_Square(point):
                return Shape_Square(Point(2 * point.x, 2 * point.y))
            case _:
                return s

    def divide(self, a: int, b: int) -> int:
        if b == 0:
            raise Err("division by zero")
        return int(a / b)

    def bounds(self, points: list[Point]) -> tuple[Point, Point] | None:
        if not points:
            return None
        xs, ys = [point.x for point in points], [point.y for point in points]
        return Point(min(xs), min(ys)), Point(max(xs), max(ys))


class WitWorld(wit_world.WitWorld):
    def greet(self, name: str) -> str:
        return f"Hello, {name}"
