// What becomes of a request, while it becomes it: place in the queue, steps, previews, pictures, log, warnings, times.
import { useEffect, useRef, useState } from "preact/hooks";
import { openWithPicture } from "./forms.js";
import { copy, count, html, narrow, say, seconds, shownUrl } from "./ui.js";

const MOST = 80; // characters shown of a setting: a data URI has millions

/** `changed`: the form has another input by now than this run; `onRestore` brings the run's input back into it. `named`: say the
 * endpoint, too. */
export function Result({ run, fields, onVary, onSameSeed, models, onCancel, onRestore, changed = false, named = false, empty = "Write a prompt and press Run. The image appears here." }) {
  if (!run) return html`<div class="canvas empty"><p>${empty}</p></div>`;
  const state = run.state.value;
  // What concerns a field is said at that field; here when the form has gone on to another input, or is out of sight above.
  const elsewhere = run.warnings.value.filter(({ field }) => changed || narrow() || !fields.some(({ name }) => name === field));
  return html`<div class="result" data-state=${state}>
    <div class="state" aria-hidden="true">${sentence(run)}</div>
    <div class="unseen" role="status">${spoken(run)}</div>
    <${Asked} run=${run} changed=${changed} named=${named} onRestore=${onRestore} />
    ${elsewhere.map((warning) => html`<p class="warning"><b>${warning.code}</b> ${warning.message}</p>`)}
    ${run.busy.value && html`<progress max="1" value=${state === "drawing" ? run.progress.value : undefined} aria-label="How far it is"></progress>`}
    ${run.busy.value && onCancel && narrow() && html`<p><button type="button" onClick=${onCancel}>Cancel</button></p>`}
    ${state === "failed" && html`<${Refused} problem=${run.problem.value} fields=${fields} />`}
    <${Pictures} run=${run} onVary=${onVary} onSameSeed=${onSameSeed} models=${models} fields=${fields} />
    <${Times} run=${run} />
    <${Log} lines=${run.logs.value} />
  </div>`;
}

const cut = (text) => (text.length > MOST ? `${text.slice(0, MOST)}…` : text);

/** The input that made this result: the form may say something else by now. */
function Asked({ run, changed, named, onRestore }) {
  const { prompt, ...more } = run.brief;
  const words = Object.entries(more).map(([name, value]) => `${name} ${cut(typeof value === "string" ? value : JSON.stringify(value))}`);
  const settings = [named ? run.id : "", ...words].filter(Boolean).join(", ");
  return html`<div class="asked">
    ${prompt && html`<p class="clamped" title=${prompt}>${prompt}</p>`}
    ${settings && html`<p class="faint clamped">${settings}</p>`}
    ${changed && html`<p class="faint">The form has changed since. ${onRestore && html`<button type="button" class="small" onClick=${onRestore}>Restore this input</button>`}</p>`}
  </div>`;
}

export function sentence(run) {
  const position = run.position.value;
  switch (run.state.value) {
    case "sending":
      return "Sending…";
    case "queued":
      return position ? `${count(position, "request")} before this one` : "Next in the queue";
    case "drawing":
      return `Drawing, ${Math.round(run.progress.value * 100)} %`;
    case "done":
      return `Done: ${count(run.output.value?.images?.length ?? 0, "image")}`;
    case "cancelled":
      return "Cancelled";
    default:
      return "It failed";
  }
}

/** As `sentence`, at most four times while it is drawn: a screen reader reads every change. */
function spoken(run) {
  if (run.state.value !== "drawing") return sentence(run);
  const quarters = Math.floor(run.progress.value * 4);
  return quarters ? `Drawing, ${quarters * 25} %` : "Drawing";
}

function Refused({ problem, fields }) {
  const names = fields.map((field) => field.name);
  const elsewhere = problem.items.length ? problem.at("", names) : [problem.message];
  const there = problem.items.filter((item) => names.includes(item.loc?.[1])).map((item) => item.loc[1]);
  return html`<div class="trouble" role="alert">
    ${elsewhere.map((message) => html`<p>${message}</p>`)}
    ${there.length > 0 && html`<p>See ${[...new Set(there)].join(", ")} in the form.</p>`}
    ${problem.requestId && html`<p class="faint">Request ${problem.requestId}</p>`}
  </div>`;
}

function Pictures({ run, onVary, onSameSeed, models, fields }) {
  const output = run.output.value;
  const pictures = output?.images ?? run.previews.value;
  if (!pictures.length) return run.busy.value ? html`<div class="canvas waiting-canvas" style=${ratio(run.input)}></div>` : null;
  return html`<div class=${`pictures n${pictures.length}`}>
    ${pictures.map((picture, at) => html`<${Picture} key=${at} picture=${picture} at=${at} run=${run} onVary=${onVary} onSameSeed=${onSameSeed} models=${models} fields=${fields} />`)}
  </div>`;
}

function ratio(input) {
  const size = input.image_size;
  return typeof size === "object" && size?.width && size?.height ? `aspect-ratio:${size.width}/${size.height}` : "aspect-ratio:4/3";
}

function Picture({ picture, at, run, onVary, onSameSeed, models, fields }) {
  const [large, setLarge] = useState(false);
  const output = run.output.value;
  const flagged = output?.has_nsfw_concepts?.[at];
  const alt = run.input.prompt || "A picture without words";
  const source = shownUrl(picture.url);
  const has = (name) => fields.some((field) => field.name === name);
  const seed = output?.seed;
  return html`<figure>
    ${output
      ? html`<button type="button" class="zoom" title="Show it large" onClick=${() => setLarge(true)}><img src=${source} alt=${alt} width=${picture.width} height=${picture.height} /></button>`
      : html`<img class="preview" src=${source} alt="Preview of a picture in the making" />`}
    ${flagged && html`<p class="warning">Blackened by the safety check.</p>`}
    ${output &&
    html`<figcaption>
      <span>${picture.width}×${picture.height}${at === 0 && seed !== undefined ? `, seed ${seed}` : ""}</span>
      <span class="row">
        <a class="button" href=${source} download=${`impasto-${run.requestId.value.slice(0, 8)}-${at + 1}.${extension(picture)}`}>Download</a>
        <button type="button" onClick=${() => copy(picture.url, "Link copied")}>Copy link</button>
        ${models && html`<button type="button" onClick=${() => openWithPicture(models, run.id, picture.url, run.input.prompt)}>Use as input</button>`}
        ${has("seed") && html`<button type="button" title="Draw what the form says with this seed" onClick=${() => keepSeed(onSameSeed, seed)}>Same seed</button>`}
        ${has("seed") && html`<button type="button" title="Another image from this one's input" onClick=${onVary}>Variation</button>`}
      </span>
    </figcaption>`}
    ${large && html`<${Large} source=${source} alt=${alt} onClose=${() => setLarge(false)} />`}
  </figure>`;
}

function keepSeed(onSameSeed, seed) {
  if (!Number.isSafeInteger(seed)) return say("This seed is too large for a browser's numbers; use a program.");
  onSameSeed(seed);
}

function extension(picture) {
  return (picture.content_type ?? "image/jpeg").split("/").pop();
}

/** The picture over the whole page; Escape and a click close it. */
export function Large({ source, alt, onClose }) {
  const dialog = useRef();
  useEffect(() => dialog.current.showModal(), []);
  return html`<dialog ref=${dialog} class="large" onClose=${onClose} onClick=${() => dialog.current.close()}>
    <img src=${source} alt=${alt} />
    <button type="button" autofocus>Close</button>
  </dialog>`;
}

function Times({ run }) {
  const [, tick] = useState(0);
  const busy = run.busy.value;
  useEffect(() => {
    if (!busy) return;
    const timer = setInterval(() => tick((n) => n + 1), 100);
    return () => clearInterval(timer);
  }, [busy]);
  const end = run.ended.value ?? performance.now();
  const waited = run.started.value === null ? null : (run.started.value - run.submitted) / 1000;
  const timings = run.output.value?.timings ?? {};
  return html`<dl class="times">
    <div><dt>In all</dt><dd>${seconds((end - run.submitted) / 1000)}</dd></div>
    <div><dt>Waited</dt><dd>${seconds(waited)}</dd></div>
    ${run.inferenceTime.value !== null && html`<div><dt>Cost</dt><dd>${seconds(run.inferenceTime.value)} of the machine</dd></div>`}
    ${Object.entries(timings).map(([name, value]) => html`<div><dt>${name}</dt><dd>${seconds(value)}</dd></div>`)}
    ${run.requestId.value && html`<div class="request-id"><dt>Request</dt><dd><code>${run.requestId.value}</code></dd></div>`}
  </dl>`;
}

export function Log({ lines }) {
  if (!lines.length) return null;
  return html`<details class="log">
    <summary>Log, ${count(lines.length, "line")}</summary>
    <div class="lines" tabindex="0" role="region" aria-label="Log"><ol>
      ${lines.map((line) => html`<li data-level=${line.level}><time>${line.timestamp.slice(11, 23)}</time> ${line.message}</li>`)}
    </ol></div>
  </details>`;
}
