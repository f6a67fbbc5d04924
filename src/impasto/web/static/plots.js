// Figures over time as SVG: bars and two lines, drawn from numbers, readable without colour and without a mouse.
import { html } from "./ui.js";

const WIDTH = 480, HEIGHT = 180, LEFT = 40, RIGHT = 10, BOTTOM = 24, TOP = 12;
const ACROSS = WIDTH - LEFT - RIGHT, UP = HEIGHT - BOTTOM - TOP;
const MARKS = 4; // labels below a plot

/** The next round number that holds `most`. */
function ceiling(most) {
  const unit = 10 ** Math.floor(Math.log10(most));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * unit).find((top) => top >= most * 0.999);
}

const shown = (value) => Number(value.toPrecision(3)).toString();
const left = (n, of) => LEFT + (ACROSS * (n + 0.5)) / of;
const top = (share) => TOP + UP * (1 - share);

function Axes({ most, times }) {
  const every = Math.max(1, Math.floor(times.length / MARKS));
  return html`${[0, 0.5, 1].map((share) => html`<g>
      <line class="axis" x1=${LEFT} x2=${WIDTH - RIGHT} y1=${top(share)} y2=${top(share)} />
      <text x=${LEFT - 6} y=${top(share) + 4} text-anchor="end">${shown(most * share)}</text></g>`)}
    ${times.map((time, n) => (times.length - 1 - n) % every === 0 && html`<text x=${Math.min(left(n, times.length), WIDTH - RIGHT - 16)} y=${HEIGHT - 8}
      text-anchor="middle">${time}</text>`)}`;
}

function Frame({ title, summary, children }) {
  return html`<figure class="figure"><figcaption><b>${title}</b> <span>${summary}</span></figcaption>
    <svg class="plot" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label=${`${title}: ${summary}`}>${children}</svg></figure>`;
}

/** `times`: what stands below; `values`: one number each. */
export function Bars({ title, summary, times, values }) {
  const most = ceiling(Math.max(1, ...values)), width = ACROSS / values.length;
  return html`<${Frame} title=${title} summary=${summary}>
    <${Axes} most=${most} times=${times} />
    ${values.map((value, n) => html`<rect class="bar" x=${LEFT + n * width + 1} width=${Math.max(width - 2, 1)} y=${top(value / most)} height=${(UP * value) / most}>
      <title>${times[n]}: ${value}</title></rect>`)}
  <//>`;
}

/** `lines`: {name: numbers or null}; the first is drawn through, the second dashed. Where nothing is, the line breaks. */
export function Lines({ title, summary, times, lines }) {
  const most = ceiling(Math.max(0.1, ...Object.values(lines).flat()));
  return html`<${Frame} title=${title} summary=${summary}>
    <${Axes} most=${most} times=${times} />
    ${Object.entries(lines).reverse().map(([name, values], at, all) => html`<${Line} name=${name} values=${values} times=${times} most=${most} second=${at < all.length - 1} />`)}
  <//>`;
}

function Line({ name, values, times, most, second }) {
  const place = (n) => `${left(n, values.length)},${top(values[n] / most)}`;
  const runs = [];
  values.forEach((value, n) => {
    if (value === null) return;
    if (n > 0 && values[n - 1] !== null) runs.at(-1).push(n);
    else runs.push([n]);
  });
  const look = second ? "second" : "";
  return html`${runs.map((run) => html`<polyline class=${`line ${look}`} points=${run.map(place).join(" ")} />`)}
    ${runs.flat().map((n) => html`<circle class=${look} cx=${left(n, values.length)} cy=${top(values[n] / most)} r="3"><title>${times[n]}, ${name}: ${values[n]} s</title></circle>`)}`;
}
