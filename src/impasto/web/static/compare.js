// Two to four settings side by side on one seed: what a change of steps, guidance, model or words does to an image.
import { signal } from "@preact/signals-core";
import { useEffect, useLayoutEffect, useMemo, useRef } from "preact/hooks";
import * as api from "./api.js";
import { Result } from "./result.js";
import { Run } from "./run.js";
import { briefInput, emptyFields, readSeed, sentInput, types, Unread } from "./schema.js";
import { html, NumberInput, say, Trouble, useAnswer, useTitle, Waiting } from "./ui.js";

const VARIED = new Set(["slider", "number", "choice", "menu", "boolean"]); // kinds of fields that a column sets for itself
const NOT_VARIED = new Set(["num_images", "output_format"]); // they change nothing that could be compared
const columns = signal([{ key: 0 }, { key: 1 }]); // `key`: its own for as long as the page is open, whatever is removed next to it
let nextKey = 2;
const prompt = signal("a red apple on a blue background");
const seed = signal(1); // an `Unread` while no seed can be read from the box
const wrong = signal(""); // why the prompt was refused; "": it was not

export function Compare() {
  const [models, error, again] = useAnswer(api.models, []);
  useTitle("Compare");
  if (error) return html`<${Trouble} title="Compare" error=${error} retry=${again} />`;
  if (!models) return html`<${Waiting} />`;
  return html`<${Ready} models=${models} />`;
}

function Ready({ models }) {
  const able = ({ metadata, impasto }) => metadata.category === "text-to-image" && impasto.availability.status !== "unsupported";
  const drawing = models.filter(able).map((model) => model.endpoint_id);
  const starts = useMemo(() => new Map(), []); // key of a column → what runs it; none while its form is not there
  const box = useRef();
  const set = (key, changes) => (columns.value = columns.value.map((column) => (column.key === key ? { ...column, ...changes } : column)));
  const refuse = (why) => {
    wrong.value = why;
    box.current?.focus();
  };
  const runAll = (event) => {
    event.preventDefault();
    for (const [at, { key }] of columns.value.entries()) {
      if (!starts.has(key)) say(`Column ${at + 1} has no form yet, so it was not run.`);
      else if (!starts.get(key)()) break;
    }
  };
  const unread = seed.value instanceof Unread;
  return html`<h1>Compare</h1>
    <p>One prompt, one seed; each column has settings of its own.</p>
    <form class="filters" onSubmit=${runAll} noValidate>
      <label class="grow">Prompt <input type="text" ref=${box} value=${prompt.value} aria-invalid=${wrong.value ? "true" : undefined}
        aria-describedby=${wrong.value ? "compare-wrong" : undefined}
        onInput=${(event) => ((prompt.value = event.target.value), (wrong.value = ""))} /></label>
      <label>Seed <input type="text" inputmode="numeric" value=${unread ? seed.value.text : seed.value ?? ""} placeholder="1"
        aria-invalid=${unread ? "true" : undefined} aria-describedby=${unread ? "compare-seed-wrong" : undefined}
        onInput=${(event) => (seed.value = readSeed(event.target.value.trim()))} /></label>
      <button type="submit" class="primary">Run all</button>
      ${columns.value.length < 4 && html`<button type="button" onClick=${() => (columns.value = [...columns.value, { ...columns.value.at(-1), run: null, key: nextKey++ }])}>Add a column</button>`}
    </form>
    ${wrong.value && html`<p class="wrong" id="compare-wrong" role="alert">${wrong.value}</p>`}
    ${unread && html`<p class="wrong" id="compare-seed-wrong" role="alert">${seed.value.why}</p>`}
    <div class="columns" style=${`--columns:${columns.value.length}`}>
      ${columns.value.map((column, at) => html`<${Column} key=${column.key} at=${at} column=${column} ids=${drawing} starts=${starts} refuse=${refuse}
        onChange=${(changes) => set(column.key, changes)}
        onRemove=${columns.value.length > 2 ? () => (columns.value = columns.value.filter(({ key }) => key !== column.key)) : null} />`)}
    </div>`;
}

/** The model of a column, its settings and its result. The settings belong to the model; the result stays, with its own input. */
function Column({ at, column, ids, starts, refuse, onChange, onRemove }) {
  const id = column.id ?? ids[0];
  const [described, error, again] = useAnswer(() => api.openapi(id), [id]);
  const input = useMemo(() => described && types(described, id).input, [described, id]);
  const values = column.values ?? {};
  const run = column.run ?? null;
  const busy = run?.busy.value ?? false;
  const sentNow = () => sentInput(input, { ...values, prompt: prompt.value, seed: seed.value ?? 1 });
  const changed = Boolean(run && input && (run.id !== id || JSON.stringify(run.input) !== JSON.stringify(sentNow())));
  /** → whether it was run, or is being drawn already. */
  const start = () => {
    if (busy) return say(`Column ${at + 1} is still being drawn. Cancel it to draw it with other settings.`), true;
    if (seed.value instanceof Unread) return say(seed.value.why), false;
    const sent = sentNow();
    if (emptyFields(input, sent).some(({ name }) => name === "prompt")) return refuse("Write what should be drawn: the prompt is empty."), false;
    const next = new Run(id, sent, briefInput(input, sent));
    onChange({ run: next });
    next.start();
    return true;
  };
  useLayoutEffect(() => {
    if (input) starts.set(column.key, start);
    else starts.delete(column.key);
  });
  useEffect(() => () => starts.delete(column.key), []);
  return html`<section class="column" aria-label=${`Column ${at + 1}`}>
    <label>Model <select value=${id} onChange=${(event) => onChange({ id: event.target.value, values: {} })}>
      ${ids.map((each) => html`<option value=${each} selected=${each === id}>${each}</option>`)}
    </select></label>
    ${error && html`<${Trouble} error=${error} retry=${again} />`}
    ${!input && !error && html`<${Waiting} />`}
    ${input && html`<${Settings} key=${id} input=${input} values=${values} onChange=${(name, value) => onChange({ values: { ...values, [name]: value } })} />`}
    <div class="row column-bar"><button type="button" disabled=${busy || !input} onClick=${start}>Run</button>
      ${busy && html`<button type="button" onClick=${() => run.cancel()}>Cancel</button>`}
      ${onRemove && html`<button type="button" disabled=${busy} title=${busy ? "It is being drawn: cancel it first" : undefined} onClick=${onRemove}>Remove</button>`}</div>
    <${Result} run=${run} fields=${[]} models=${null} empty="Press Run." changed=${changed} named />
  </section>`;
}

function Settings({ input, values, onChange }) {
  const varied = input.fields.filter((field) => VARIED.has(field.kind) && !field.apiOnly && !NOT_VARIED.has(field.name));
  const change = (name) => (event) => onChange(name, event.target.type === "checkbox" ? event.target.checked : event.target.value);
  return varied.map((field) => html`<label key=${field.name} class=${field.kind === "boolean" ? "line" : ""}>${field.title}
    ${field.kind === "boolean"
      ? html`<input type="checkbox" role="switch" checked=${values[field.name] ?? field.default ?? false} onChange=${change(field.name)} />`
      : field.words.length
      ? html`<select value=${values[field.name] ?? field.default} onChange=${change(field.name)}>${field.words.map((word) => html`<option value=${word} selected=${word === (values[field.name] ?? field.default)}>${word}</option>`)}</select>`
      : html`<${NumberInput} min=${field.minimum} max=${field.maximum} step=${field.type === "integer" ? 1 : "any"}
          value=${values[field.name]} placeholder=${field.default} onChange=${(value) => onChange(field.name, value)} />`}</label>`);
}
