// Small plots as SVG.

const WIDTH = 360, HEIGHT = 150, LEFT = 44, BOTTOM = 22, TOP = 8;

const draw = (tag, attributes, text) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
};

function frame(title, empty) {
  const figure = document.createElement("figure"), caption = document.createElement("figcaption");
  caption.textContent = empty ? `${title}: none` : title;
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title });
  figure.append(caption, ...(empty ? [] : [svg]));
  return [figure, svg];
}

const short = (value) => (Math.abs(value) >= 1000 ? `${Math.round(value / 100) / 10}k` : `${Math.round(value * 100) / 100}`);

// Bars of two parts: rows of [start of the bin, [lower part, upper part]].
export function bars(title, rows) {
  const [figure, svg] = frame(title, !rows.length);
  const most = Math.max(1, ...rows.map(([, [one, other]]) => one + other));
  const first = rows[0]?.[0] ?? 0, last = rows.at(-1)?.[0] ?? 0, bins = Math.round((last - first) / 10) + 1;
  const width = (WIDTH - LEFT) / bins, height = HEIGHT - BOTTOM - TOP;
  for (const [from, [one, other]] of rows) {
    const x = LEFT + ((from - first) / 10) * width, low = (one / most) * height, high = (other / most) * height;
    const size = { x: x + 0.5, width: Math.max(0.5, width - 1) };
    svg.append(draw("rect", { ...size, y: HEIGHT - BOTTOM - low, height: low, class: "one" }), draw("rect", { ...size, y: HEIGHT - BOTTOM - low - high, height: high, class: "other" }));
  }
  svg.append(draw("text", { x: LEFT - 6, y: TOP + 9, class: "end" }, short(most)), draw("text", { x: LEFT - 6, y: HEIGHT - BOTTOM, class: "end" }, "0"));
  svg.append(draw("text", { x: LEFT, y: HEIGHT - 6 }, short(first)), draw("text", { x: WIDTH, y: HEIGHT - 6, class: "end" }, short(last + 10)));
  return figure;
}

// A line through [x, y] points.
export function lines(title, points) {
  const known = points.filter(([, y]) => typeof y === "number");
  const [figure, svg] = frame(title, known.length < 2);
  if (known.length < 2) return figure;
  const [xs, ys] = [known.map(([x]) => x), known.map(([, y]) => y)];
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const x = (value) => LEFT + ((value - left) / (right - left || 1)) * (WIDTH - LEFT - 4);
  const y = (value) => HEIGHT - BOTTOM - ((value - low) / (high - low || 1)) * (HEIGHT - BOTTOM - TOP);
  svg.append(draw("polyline", { points: known.map(([at, value]) => `${x(at)},${y(value)}`).join(" "), class: "line" }));
  svg.append(draw("text", { x: LEFT - 6, y: TOP + 9, class: "end" }, short(high)), draw("text", { x: LEFT - 6, y: HEIGHT - BOTTOM, class: "end" }, short(low)));
  svg.append(draw("text", { x: LEFT, y: HEIGHT - 6 }, short(left)), draw("text", { x: WIDTH, y: HEIGHT - 6, class: "end" }, `step ${short(right)}`));
  return figure;
}
