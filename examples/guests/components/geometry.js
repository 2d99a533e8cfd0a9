// geometry.wit in JavaScript, for ComponentizeJS or componentize-qjs.

export const shapes = {
  mirror: ({ x, y }) => ({ x: y, y: x }),

  double(shape) {
    switch (shape.tag) {
      case 'circle':
        return { tag: 'circle', val: 2 * shape.val };
      case 'square':
        return { tag: 'square', val: { x: 2 * shape.val.x, y: 2 * shape.val.y } };
      default:
        return shape;
    }
  },

  divide(a, b) {
    if (b === 0) throw 'division by zero';
    return Math.trunc(a / b);
  },

  bounds(points) {
    if (points.length === 0) return undefined;
    const xs = points.map((point) => point.x);
    const ys = points.map((point) => point.y);
    return [
      { x: Math.min(...xs), y: Math.min(...ys) },
      { x: Math.max(...xs), y: Math.max(...ys) },
    ];
  },
};

export const greet = (name) => `Hello, ${name}`;
