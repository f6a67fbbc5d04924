// The form of an endpoint, made from its schema in `x-fal-order-properties` order: one control a kind of field.
import { useEffect, useRef } from "preact/hooks";
import { Mask, Picture, Pictures, uploads } from "./pictures.js";
import { PRESETS, presetTitle, readSeed, Unread } from "./schema.js";
import { html, NumberInput, useRows } from "./ui.js";

const EXAMPLES = [
  "a red apple",
  "a yellow star on a navy background",
  "a blue butterfly on a meadow",
  "a rocket in a night sky",
  "a panda, flat illustration, on a pink background",
  "a cat to the left of a dog",
  "a pumpkin in the snow",
];
const MAX_RANDOM = 2 ** 32;

/** `values`: a signal of {field: value}; `problem`: a signal of the last refusal; `blocked`: why it cannot be run now, "": it can;
 * `warnings`: the server's, of the run that has this very input. `busy`: the run that is shown is in progress, `waits`: some run is; another one can be started all the same. */
export function Form({ input, values, problem, warnings = [], onRun, busy, waits, blocked, onCancel, onReset }) {
  const change = (name, value) => {
    values.value = { ...values.value, [name]: value };
    // A field that was mended is no longer shown as wrong; the others are.
    if (problem.value?.at(name).length) problem.value = problem.value.without(name);
  };
  const submit = (event) => {
    event.preventDefault();
    onRun();
  };
  useEffect(() => {
    const keys = (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !document.querySelector("dialog[open]")) submit(event);
    };
    addEventListener("keydown", keys);
    return () => removeEventListener("keydown", keys);
  }, [onRun]);
  const seen = useRef(problem.value); // who comes back to the page is not led to what was wrong before
  useEffect(() => {
    // The first wrong field is brought to the eye, and a screen reader reads what is wrong with it.
    if (problem.value && !problem.value.seen && problem.value !== seen.current) document.querySelector(".form [aria-invalid=true]")?.focus();
  }, [problem.value]);
  const names = input.fields.map((field) => field.name);
  const control = (field) =>
    html`<${Field} key=${field.name} field=${field} value=${values.value[field.name]} errors=${problem.value?.at(field.name) ?? []}
      warnings=${warnings.filter((each) => each.field === field.name)}
      beside=${values.value} onChange=${(value) => change(field.name, value)} />`;
  const hidden = input.fields.filter((field) => field.apiOnly);
  const rest = problem.value && !problem.value.items.length ? [problem.value.message] : problem.value?.at("", names) ?? [];
  return html`<form class="form" onSubmit=${submit} aria-label="Input" noValidate>
    ${input.fields.filter((field) => !field.apiOnly).map(control)}
    ${hidden.length > 0 &&
    html`<details open=${hidden.some((field) => problem.value?.at(field.name).length)}>
      <summary>API only</summary>
      ${hidden.map(control)}
    </details>`}
    ${rest.map((message) => html`<p class="wrong" role="alert">${message}</p>`)}
    <div class="actions run-bar">
      <span class=${blocked ? "faint why" : "unseen"} role="status">${blocked}</span>
      <button type="submit" class="primary" disabled=${Boolean(blocked)} title=${waits ? "Adds this input to the queue; what is in progress goes on" : undefined}>${waits ? "Run next" : "Run"}</button>
      ${busy && html`<button type="button" onClick=${onCancel}>Cancel</button>`}
      <span class="faint keys-hint"><kbd>Ctrl</kbd> <kbd>Enter</kbd></span>
      <button type="button" class="quiet at-end" onClick=${onReset} disabled=${uploads.value > 0}>Reset</button>
    </div>
  </form>`;
}

const CONTROLS = {
  prompt: Prompt,
  size: Size,
  seed: Seed,
  slider: Slider,
  number: NumberBox,
  choice: Choice,
  menu: Menu,
  boolean: Switch,
  image: Picture,
  images: Pictures,
  mask: Mask,
  rows: Rows,
  text: TextLine,
  json: Json,
};

function Field({ field, value, errors, warnings = [], onChange, beside, id = `field-${field.name}` }) {
  const Control = CONTROLS[field.kind];
  const described = [field.description && `${id}-about`, errors.length && `${id}-wrong`, warnings.length && `${id}-warning`].filter(Boolean).join(" ");
  const aria = { id, "aria-describedby": described || undefined, "aria-invalid": errors.length ? "true" : undefined };
  const grouped = GROUPED.has(field.kind);
  // Of several controls none is the wrong one: the group is, and takes the focus. Pictures have a box each for their address.
  const told = grouped && field.kind !== "images" ? { ...aria, id: undefined, tabindex: errors.length ? -1 : undefined } : {};
  return html`<div class=${`field ${errors.length ? "is-wrong" : ""}`} data-field=${field.name} role=${grouped ? "group" : undefined}
    aria-labelledby=${grouped ? `${id}-label` : undefined} ...${told}>
    <div class="label">
      ${grouped
        ? html`<span id=${`${id}-label`}>${field.title}</span>`
        : html`<label for=${id}>${field.title}</label>`}
      ${field.required && html`<span class="faint">required</span>`}
      <code class="faint">${field.name}</code>
    </div>
    <${Control} field=${field} value=${value} onChange=${onChange} aria=${aria} beside=${beside} />
    ${errors.map((message) => html`<p class="wrong" id=${`${id}-wrong`} role="alert">${message}</p>`)}
    ${warnings.length > 0 && html`<div class="warning" id=${`${id}-warning`} role="status">${warnings.map(({ code, message }) => html`<p><b>${code}</b> ${message}</p>`)}</div>`}
    ${field.description && html`<p class="about" id=${`${id}-about`}>${field.description}</p>`}
  </div>`;
}

const GROUPED = new Set(["size", "choice", "rows", "images"]); // several controls, one name

// ---------------------------------------------------------------- controls

function Prompt({ field, value, onChange, aria }) {
  return html`<textarea ...${aria} rows="3" maxLength=${field.maxLength} value=${value ?? ""} placeholder="What should be drawn?"
      onInput=${(event) => onChange(event.target.value)} spellcheck=${true}></textarea>
    ${field.name === "prompt" &&
    html`<div class="chips" aria-label="Example prompts" role="group">
      ${EXAMPLES.map((text) => html`<button type="button" class="chip" onClick=${() => onChange(text)}>${text}</button>`)}
    </div>`}`;
}

function Size({ field, value, onChange, aria }) {
  const custom = typeof value === "object" && value !== null;
  const edge = (name) => (event) => onChange({ ...value, [name]: event.target.valueAsNumber });
  return html`<div class="sizes" id=${aria.id}>
      ${field.words.map((word) => {
        const [width, height] = PRESETS[word] ?? [1, 1];
        const scale = 22 / Math.max(width, height);
        return html`<button type="button" aria-pressed=${value === word ? "true" : "false"} onClick=${() => onChange(word)}>
          <span class="frame" style=${`width:${width * scale}px;height:${height * scale}px`}></span>
          <span>${presetTitle(word)}<small>${PRESETS[word]?.join("×") ?? ""}</small></span>
        </button>`;
      })}
      <button type="button" aria-pressed=${custom ? "true" : "false"}
        onClick=${() => custom || onChange({ width: (PRESETS[value] ?? [1024])[0], height: (PRESETS[value] ?? [0, 768])[1] })}>
        <span class="frame dashed"></span><span>Custom<small>multiples of 16</small></span>
      </button>
    </div>
    ${custom &&
    html`<div class="pair">
      <label>Width <input id=${`${aria.id}-width`} type="number" step="16" min="64" value=${value.width} onInput=${edge("width")} /></label>
      <button type="button" title="Swap the edges" aria-label="Swap the edges"
        onClick=${() => onChange({ width: value.height, height: value.width })}>⇄</button>
      <label>Height <input id=${`${aria.id}-height`} type="number" step="16" min="64" value=${value.height} onInput=${edge("height")} /></label>
    </div>`}`;
}

function Slider({ field, value, onChange, aria }) {
  const step = field.type === "integer" ? 1 : field.maximum - field.minimum > 2 ? 0.1 : 0.01;
  const now = value ?? field.default ?? field.minimum;
  const bounds = { min: field.minimum, max: field.maximum, step };
  return html`<div class="slider">
    <input type="range" ...${bounds} value=${now} onInput=${(event) => onChange(event.target.valueAsNumber)} aria-label=${`${field.title}, slider`} />
    <${NumberInput} ...${aria} ...${bounds} step="any" value=${value} placeholder=${field.default ?? ""} onChange=${onChange} />
  </div>`;
}

function NumberBox({ field, value, onChange, aria }) {
  return html`<${NumberInput} ...${aria} min=${field.minimum} max=${field.maximum} step=${field.type === "integer" ? 1 : "any"} value=${value} onChange=${onChange} />`;
}

/** Empty: a new seed every time. Locked: this one. The dice choose and lock. */
function Seed({ value, onChange, aria }) {
  const locked = value !== undefined && value !== null;
  const roll = () => onChange(Math.floor(Math.random() * MAX_RANDOM));
  const wrong = value instanceof Unread;
  return html`<div class="seed">
    <input type="text" inputmode="numeric" ...${aria} value=${wrong ? value.text : value ?? ""} aria-invalid=${wrong ? "true" : aria["aria-invalid"]}
      placeholder="a new one every time" onInput=${(event) => onChange(readSeed(event.target.value.trim()))} />
    <button type="button" aria-label="Roll the dice: another seed" title="Another seed" onClick=${roll}>⚄</button>
    <button type="button" aria-pressed=${locked ? "true" : "false"} aria-label="Keep this seed" title=${locked ? "Kept: press for a new one every time" : "A new one every time: press to keep one"}
      onClick=${() => (locked ? onChange(undefined) : roll())}>${locked ? "Locked" : "Lock"}</button>
  </div>
  ${wrong && html`<p class="wrong" role="alert">${value.why}</p>`}`;
}

function Choice({ field, value, onChange, aria }) {
  return html`<div class="segments" id=${aria.id}>
    ${field.words.map(
      (word) =>
        html`<button type="button" aria-pressed=${value === word ? "true" : "false"} onClick=${() => onChange(word)}>${word}</button>`,
    )}
  </div>`;
}

function Menu({ field, value, onChange, aria }) {
  return html`<select ...${aria} value=${value ?? ""} onChange=${(event) => onChange(event.target.value || undefined)}>
    ${field.default === undefined && html`<option value="">–</option>`}
    ${field.words.map((word) => html`<option value=${word} selected=${value === word}>${word}</option>`)}
  </select>`;
}

function Switch({ value, onChange, aria }) {
  return html`<input type="checkbox" role="switch" ...${aria} checked=${value === true} onChange=${(event) => onChange(event.target.checked)} />`;
}

function TextLine({ field, value, onChange, aria }) {
  return html`<input type="text" ...${aria} maxLength=${field.maxLength} value=${value ?? ""} onInput=${(event) => onChange(event.target.value)} />`;
}

/** Anything else: JSON, as typed for as long as that says the value. */
function Json({ value, onChange, aria }) {
  const typed = useRef("");
  const wrong = value instanceof Unread;
  const text = wrong ? value.text : written(read(typed.current)) === written(value) ? typed.current : written(value);
  const type = (event) => onChange(read((typed.current = event.target.value)));
  return html`<textarea ...${aria} rows="3" class="mono" value=${text} onInput=${type} spellcheck=${false}
      aria-invalid=${wrong ? "true" : aria["aria-invalid"]}></textarea>
    ${wrong && html`<p class="wrong">${value.why}</p>`}`;
}

const written = (value) => (value === undefined ? "" : JSON.stringify(value, null, 2));

function read(text) {
  if (!text.trim()) return undefined;
  try {
    return JSON.parse(text);
  } catch (error) {
    return new Unread(text, error.message);
  }
}

/** A list of things with fields of their own, such as LoRAs. */
function Rows({ field, value, onChange, aria }) {
  const list = value ?? [];
  const rows = useRows(list, onChange);
  const one = field.title.replace(/s$/, "");
  const blank = () => Object.fromEntries(field.rows.filter((each) => each.default !== undefined).map((each) => [each.name, each.default]));
  const set = (key, name, next) => rows.set(key, (row) => ({ ...row, [name]: next }));
  const full = field.maxItems !== undefined && list.length >= field.maxItems;
  return html`<div id=${aria.id}>
    ${rows.keys.slice(0, list.length).map((key, at) => html`<fieldset class="item" key=${key}>
      <legend>${one} ${at + 1}</legend>
      ${field.rows.map((each) => html`<${Field} key=${each.name} id=${`${aria.id}-${at}-${each.name}`} field=${each} value=${list[at][each.name]} errors=${[]}
        onChange=${(next) => set(key, each.name, next)} />`)}
      <button type="button" onClick=${() => rows.remove(key)}>Remove ${one} ${at + 1}</button>
    </fieldset>`)}
    ${!full && html`<button type="button" onClick=${() => rows.add(blank())}>${list.length ? `Add another ${one}` : `Add a ${one}`}</button>`}
  </div>`;
}
