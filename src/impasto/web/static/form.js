// The form of an endpoint, made from its schema in `x-fal-order-properties` order: one control a kind of field.
import { useEffect, useRef, useState } from "preact/hooks";
import * as api from "./api.js";
import { PRESETS, presetTitle } from "./schema.js";
import { html, say, shownUrl } from "./ui.js";

const EXAMPLES = [
  "a red apple",
  "a yellow star on a navy background",
  "a blue butterfly on a meadow",
  "a rocket in a night sky",
  "a panda, flat illustration, on a pink background",
  "a sailboat at sunset",
];
const MAX_RANDOM = 2 ** 32;

/** `values`: a signal of {field: value}; `problem`: a signal of the last refusal. */
export function Form({ input, values, problem, onRun, busy, onCancel }) {
  const change = (name, value) => {
    values.value = { ...values.value, [name]: value };
    // A field that was mended is no longer shown as wrong.
    if (problem.value?.at(name).length) problem.value = null;
  };
  const submit = (event) => {
    event.preventDefault();
    if (!busy) onRun();
  };
  const keys = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
  };
  const names = input.fields.map((field) => field.name);
  const control = (field) =>
    html`<${Field} key=${field.name} field=${field} value=${values.value[field.name]} errors=${problem.value?.at(field.name) ?? []}
      onChange=${(value) => change(field.name, value)} />`;
  const hidden = input.fields.filter((field) => field.apiOnly);
  const rest = problem.value && !problem.value.items.length ? [problem.value.message] : problem.value?.at("", names) ?? [];
  return html`<form class="form" onSubmit=${submit} onKeyDown=${keys} aria-label="Input" noValidate>
    ${input.fields.filter((field) => !field.apiOnly).map(control)}
    ${hidden.length > 0 &&
    html`<details open=${hidden.some((field) => problem.value?.at(field.name).length)}>
      <summary>API only</summary>
      ${hidden.map(control)}
    </details>`}
    ${rest.map((message) => html`<p class="wrong" role="alert">${message}</p>`)}
    <div class="actions">
      <button type="submit" class="primary" disabled=${busy}>Run</button>
      ${busy && html`<button type="button" onClick=${onCancel}>Cancel</button>`}
      <span class="faint keys-hint">Ctrl + Enter</span>
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
  text: TextLine,
  json: Json,
};

function Field({ field, value, errors, onChange }) {
  const id = `field-${field.name}`;
  const Control = CONTROLS[field.kind];
  const described = [field.description && `${id}-about`, errors.length && `${id}-wrong`].filter(Boolean).join(" ");
  const aria = { id, "aria-describedby": described || undefined, "aria-invalid": errors.length ? "true" : undefined };
  const grouped = ["size", "choice"].includes(field.kind);
  return html`<div class=${`field ${errors.length ? "is-wrong" : ""}`} data-field=${field.name} role=${grouped ? "group" : undefined}
    aria-labelledby=${grouped ? `${id}-label` : undefined}>
    <div class="label">
      ${grouped
        ? html`<span id=${`${id}-label`}>${titleOf(field)}</span>`
        : html`<label for=${id}>${titleOf(field)}</label>`}
      ${field.required && html`<span class="faint">required</span>`}
      <code class="faint">${field.name}</code>
    </div>
    <${Control} field=${field} value=${value} onChange=${onChange} aria=${aria} />
    ${errors.map((message) => html`<p class="wrong" id=${`${id}-wrong`} role="alert">${message}</p>`)}
    ${field.description && html`<p class="about" id=${`${id}-about`}>${field.description}</p>`}
  </div>`;
}

function titleOf(field) {
  const special = { num_inference_steps: "Inference steps", num_images: "Number of images", prompt: "Prompt" };
  return special[field.name] ?? field.title;
}

// ---------------------------------------------------------------- controls

function Prompt({ field, value, onChange, aria }) {
  return html`<textarea ...${aria} rows="3" maxLength=${field.maxLength} value=${value ?? ""} placeholder="What should be drawn?"
      onInput=${(event) => onChange(event.target.value)} spellcheck="true"></textarea>
    ${field.name === "prompt" &&
    html`<div class="chips" aria-label="Example prompts" role="group">
      ${EXAMPLES.map((text) => html`<button type="button" class="chip" onClick=${() => onChange(text)}>${text}</button>`)}
    </div>`}`;
}

function Size({ field, value, onChange, aria }) {
  const custom = typeof value === "object" && value !== null;
  const edge = (name) => (event) => onChange({ ...value, [name]: event.target.valueAsNumber });
  return html`<div class="sizes">
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
      <label>Height <input id=${`${aria.id}-height`} type="number" step="16" min="64" value=${value.height} onInput=${edge("height")} /></label>
    </div>`}`;
}

function Slider({ field, value, onChange, aria }) {
  const step = field.type === "integer" ? 1 : field.maximum - field.minimum > 2 ? 0.1 : 0.01;
  const now = value ?? field.default ?? field.minimum;
  const change = (event) => onChange(event.target.value === "" ? undefined : event.target.valueAsNumber);
  const bounds = { min: field.minimum, max: field.maximum, step };
  return html`<div class="slider">
    <input type="range" ...${bounds} value=${now} onInput=${change} aria-label=${`${titleOf(field)}, slider`} />
    <input type="number" ...${aria} ...${bounds} step="any" value=${value ?? ""} placeholder=${field.default ?? ""} onInput=${change} />
  </div>`;
}

function NumberBox({ field, value, onChange, aria }) {
  return html`<input type="number" ...${aria} min=${field.minimum} max=${field.maximum} step=${field.type === "integer" ? 1 : "any"}
    value=${value ?? ""} onInput=${(event) => onChange(event.target.value === "" ? undefined : event.target.valueAsNumber)} />`;
}

/** Empty: a new seed every time. Locked: this one. The dice choose and lock. */
function Seed({ value, onChange, aria }) {
  const locked = value !== undefined && value !== null;
  const roll = () => onChange(Math.floor(Math.random() * MAX_RANDOM));
  const type = (event) => {
    const number = event.target.valueAsNumber;
    onChange(Number.isSafeInteger(number) ? number : undefined);
  };
  return html`<div class="seed">
    <input type="number" ...${aria} min="0" max=${Number.MAX_SAFE_INTEGER} step="1" value=${locked ? value : ""} placeholder="a new one every time" onInput=${type} />
    <button type="button" aria-label="Roll the dice: another seed" title="Another seed" onClick=${roll}>⚄</button>
    <button type="button" aria-pressed=${locked ? "true" : "false"} aria-label="Keep this seed" title=${locked ? "Kept: press for a new one every time" : "A new one every time: press to keep one"}
      onClick=${() => (locked ? onChange(undefined) : roll())}>${locked ? "Locked" : "Lock"}</button>
  </div>`;
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

/** Anything else: JSON, kept as typed until it can be read. */
function Json({ value, onChange, aria }) {
  const [text, setText] = useState(value === undefined ? "" : JSON.stringify(value, null, 2));
  const [wrong, setWrong] = useState("");
  const type = (event) => {
    setText(event.target.value);
    try {
      onChange(event.target.value.trim() ? JSON.parse(event.target.value) : undefined);
      setWrong("");
    } catch (error) {
      setWrong(error.message);
    }
  };
  return html`<textarea ...${aria} rows="3" class="mono" value=${text} onInput=${type} spellcheck="false"></textarea>
    ${wrong && html`<p class="wrong">${wrong}</p>`}`;
}

// ---------------------------------------------------------------- pictures

function Picture({ value, onChange, aria }) {
  const box = useRef();
  const [busy, setBusy] = useState(false);
  const [over, setOver] = useState(false);
  const [wrong, setWrong] = useState("");
  const take = async (files) => {
    const file = [...files].find((each) => each.type.startsWith("image/"));
    if (!file) return setWrong("That is no picture. Take a JPEG, PNG, WebP, GIF or AVIF.");
    setWrong("");
    setBusy(true);
    try {
      onChange(await api.upload(file));
      say(`Uploaded ${file.name || "the picture"}`);
    } catch (error) {
      setWrong(error.message);
    } finally {
      setBusy(false);
    }
  };
  useEffect(() => {
    const paste = (event) => {
      if (event.clipboardData?.files.length) {
        event.preventDefault();
        take(event.clipboardData.files);
      }
    };
    addEventListener("paste", paste);
    return () => removeEventListener("paste", paste);
  }, []);
  const drop = (event) => {
    event.preventDefault();
    setOver(false);
    take(event.dataTransfer.files);
  };
  return html`<div class=${`drop ${over ? "is-over" : ""}`} ref=${box} onDragOver=${(event) => (event.preventDefault(), setOver(true))}
      onDragLeave=${() => setOver(false)} onDrop=${drop}>
      ${value
        ? shownUrl(value)
          ? html`<img src=${shownUrl(value)} alt="The picture that goes in" />`
          : html`<p class="about">The server will fetch it.</p>`
        : html`<p>${busy ? "Uploading…" : "Drop a picture here, paste one, or"}</p>`}
      <label class="button">${value ? "Another one" : "Choose a file"}
        <input type="file" accept="image/*" class="hidden-file" aria-label="Choose a picture" onChange=${(event) => take(event.target.files)} /></label>
      ${value && html`<button type="button" onClick=${() => onChange(undefined)}>Remove</button>`}
    </div>
    <input type="text" ...${aria} value=${value ?? ""} placeholder="or the URL of a picture" inputmode="url"
      onInput=${(event) => onChange(event.target.value || undefined)} />
    ${wrong && html`<p class="wrong" role="alert">${wrong}</p>`}`;
}

function Pictures({ field, value, onChange, aria }) {
  const list = value ?? [];
  const set = (at, url) => onChange(url ? list.with(at, url) : list.toSpliced(at, 1));
  return html`<div>
    ${list.map((url, at) => html`<${Picture} key=${at} field=${field} value=${url} onChange=${(next) => set(at, next)} aria=${{ ...aria, id: `${aria.id}-${at}` }} />`)}
    <${Picture} key=${list.length} field=${field} value=${undefined} onChange=${(url) => url && onChange([...list, url])} aria=${aria} />
  </div>`;
}
