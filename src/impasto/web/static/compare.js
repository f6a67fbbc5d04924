// Two to four settings side by side on one seed: what a change of steps, guidance, model or words does to a picture.
import { signal } from "@preact/signals-core";
import { useMemo, useState } from "preact/hooks";
import * as api from "./api.js";
import { Result } from "./result.js";
import { Run } from "./run.js";
import { sentInput, types } from "./schema.js";
import { html, NumberInput, say, Trouble, useAnswer, useTitle, Waiting } from "./ui.js";

const VARIED = new Set(["slider", "number", "choice", "menu", "boolean"]); // kinds of fields that a column sets for itself
const NOT_VARIED = new Set(["num_images", "output_format"]); // they change nothing that could be compared
const columns = signal([{ key: 0 }, { key: 1 }]); // `key`: its own for as long as the page is open, whatever is removed beside it
let nextKey = 2;
const prompt = signal("a red apple on a blue background");
const seed = signal(1);

export function Compare() {
  const [models, error, again] = useAnswer(api.models, []);
  useTitle("Compare");
  if (error) return html`<${Trouble} title="Compare" error=${error} retry=${again} />`;
  if (!models) return html`<${Waiting} />`;
  return html`<${Ready} models=${models} />`;
}

function Ready({ models }) {
  const drawing = models.filter((model) => model.metadata.category === "text-to-image").map((model) => model.endpoint_id);
  const starts = useMemo(() => new Map(), []);
  const set = (at, changes) => (columns.value = columns.value.map((column, n) => (n === at ? { ...column, ...changes } : column)));
  const runAll = (event) => {
    event.preventDefault();
    for (const { key } of columns.value) starts.get(key)?.();
  };
  return html`<h1>Compare</h1>
    <p>One prompt, one seed; each column has settings of its own.</p>
    <form class="filters" onSubmit=${runAll}>
      <label class="grow">Prompt <input type="text" value=${prompt.value} onInput=${(event) => (prompt.value = event.target.value)} /></label>
      <label>Seed <input type="number" min="0" value=${seed.value} onInput=${(event) => (seed.value = event.target.valueAsNumber || 0)} /></label>
      <button type="submit" class="primary">Run all</button>
      ${columns.value.length < 4 && html`<button type="button" onClick=${() => (columns.value = [...columns.value, { ...columns.value.at(-1), key: nextKey++ }])}>Add a column</button>`}
    </form>
    <div class="columns" style=${`--columns:${columns.value.length}`}>
      ${columns.value.map((column, at) => html`<${Column} key=${column.key} at=${at} column=${column} ids=${drawing} onChange=${(changes) => set(at, changes)}
        onReady=${(start) => starts.set(column.key, start)} onRemove=${columns.value.length > 2 ? () => (columns.value = columns.value.filter((_, n) => n !== at)) : null} />`)}
    </div>`;
}

function Column({ at, column, ids, onChange, onReady, onRemove }) {
  const id = column.id ?? ids[0];
  const [document, error] = useAnswer(() => api.openapi(id), [id]);
  const [run, setRun] = useState(null);
  if (error) return html`<${Trouble} error=${error} />`;
  if (!document) return html`<${Waiting} />`;
  const { input } = types(document, id);
  const values = column.values ?? {};
  const varied = input.fields.filter((field) => VARIED.has(field.kind) && !field.apiOnly && !NOT_VARIED.has(field.name));
  const busy = run?.busy.value ?? false;
  const start = () => {
    if (busy) return say(`Column ${at + 1} is still being drawn: its settings are run again when you cancel it.`);
    const next = new Run(id, sentInput(input, { ...values, prompt: prompt.value, seed: seed.value }));
    setRun(next);
    next.start();
  };
  onReady(start);
  const set = (name, value) => onChange({ values: { ...values, [name]: value } });
  const change = (name) => (event) => set(name, event.target.type === "checkbox" ? event.target.checked : event.target.value);
  return html`<section class="column" aria-label=${`Column ${at + 1}`}>
    <label>Model <select value=${id} onChange=${(event) => onChange({ id: event.target.value, values: {} })}>
      ${ids.map((each) => html`<option value=${each} selected=${each === id}>${each}</option>`)}
    </select></label>
    ${varied.map((field) => html`<label key=${field.name} class=${field.kind === "boolean" ? "line" : ""}>${field.title}
      ${field.kind === "boolean"
        ? html`<input type="checkbox" role="switch" checked=${values[field.name] ?? field.default ?? false} onChange=${change(field.name)} />`
        : field.words.length
        ? html`<select value=${values[field.name] ?? field.default} onChange=${change(field.name)}>${field.words.map((word) => html`<option value=${word}>${word}</option>`)}</select>`
        : html`<${NumberInput} min=${field.minimum} max=${field.maximum} step=${field.type === "integer" ? 1 : "any"}
            value=${values[field.name]} placeholder=${field.default} onChange=${(value) => set(field.name, value)} />`}</label>`)}
    <div class="row column-bar"><button type="button" disabled=${busy} onClick=${start}>Run</button>
      ${busy && html`<button type="button" onClick=${() => run.cancel()}>Cancel</button>`}
      ${onRemove && html`<button type="button" onClick=${onRemove}>Remove</button>`}</div>
    <${Result} run=${run} fields=${[]} onAgain=${() => {}} models=${null} empty="Press Run." />
  </section>`;
}
