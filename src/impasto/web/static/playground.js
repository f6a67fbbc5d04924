// An endpoint to try: the form, the picture in the making, the same as a program. The first page a person sees.
import { signal } from "@preact/signals-core";
import { useMemo, useRef, useState } from "preact/hooks";
import * as api from "./api.js";
import { LANGUAGES, program } from "./code.js";
import { Form } from "./form.js";
import { filled, linkTo, valuesOf } from "./forms.js";
import { uploads } from "./pictures.js";
import { Result, sentence } from "./result.js";
import { Run } from "./run.js";
import { briefInput, emptyFields, initialInput, sentInput, types, unreadFields } from "./schema.js";
import { recall, remember } from "./storage.js";
import { Code, copy, CopyButton, html, Link, narrow, say, shownUrl, Tabs, Trouble, useAnswer, useLive, useTitle, Waiting } from "./ui.js";

const SERVED_SOON = 3000; // milliseconds between looks whether a runner serves the endpoint by now
const LANGUAGE = "impasto.language";
const EARLIER = 8; // runs kept in sight below the latest one; the history has all
const lasts = new Map(); // endpoint id → signals of its runs, of the one that is shown, and of what is wrong in the form: leaving the page ends none

function lastOf(id) {
  if (!lasts.has(id)) lasts.set(id, { runs: signal([]), current: signal(null), problem: signal(null) });
  return lasts.get(id);
}

export function Playground({ id }) {
  const [document, error, again] = useAnswer(() => api.openapi(id), [id]);
  const [models] = useAnswer(api.models, []);
  if (error) return html`<${Trouble} title=${id} error=${error} retry=${again} />`;
  if (!document) return html`<${Waiting}>Reading the schema of ${id}…<//>`;
  return html`<${Ready} key=${id} id=${id} document=${document} models=${models} />`;
}

function Ready({ id, document, models }) {
  const { input, output } = useMemo(() => types(document, id), [document, id]);
  const values = valuesOf(id, input);
  const { runs, current, problem } = lastOf(id);
  const run = current.value;
  const place = useRef();
  const model = models?.find((each) => each.endpoint_id === id);
  const unread = unreadFields(input, values.value).map((field) => field.title);
  const [served] = useLive(() => api.model(id), [id], (found) => (found && found.impasto.availability.status !== "available" ? SERVED_SOON : 0));
  const unsupported = served?.impasto.availability.status === "unsupported";
  const blocked = unsupported ? "The loaded model cannot draw this: see the top of the page." : uploads.value ? "A picture is still being uploaded." : unread.length ? `${unread.join(", ")}: mend it or empty it, then it can be run.` : "";
  const start = async () => {
    if (blocked) return say(blocked);
    problem.value = refusal(emptyFields(input, values.value));
    if (problem.value) return;
    const sent = sentInput(input, values.value);
    const twin = runs.value.find((each) => each.busy.value && JSON.stringify(each.input) === JSON.stringify(sent));
    if (twin) return (current.value = twin), say("This input is being drawn already. Change it, or wait for the image.");
    const next = new Run(id, sent, briefInput(input, values.value));
    runs.value = kept([next, ...runs.value]);
    current.value = next;
    if (narrow()) place.current?.scrollIntoView();
    await next.start();
    if (current.value === next && next.problem.value) problem.value = next.problem.value;
  };
  const restore = (run) => ((values.value = filled(input, run.input)), (problem.value = null));
  /** Another image from the same input, whatever the form says by now. */
  const vary = () => {
    values.value = { ...filled(input, run.input), seed: undefined };
    return start();
  };
  const sameSeed = (seed) => {
    values.value = { ...values.value, seed };
    return start();
  };
  const changed = run !== null && JSON.stringify(run.input) !== JSON.stringify(sentInput(input, values.value));
  const brief = briefInput(input, values.value);
  const title = model?.metadata?.display_name ?? id;
  useTitle(run?.state.value === "drawing" ? `${Math.round(run.progress.value * 100)} % · ${title}` : title);
  const share = () => {
    const link = linkTo(id, brief);
    return link ? copy(link, "Link to this form copied") : say("The form is too long for a link: upload the picture instead of pasting its data.");
  };
  return html`<div class="model-head">
      <div>
        <h1>${title}</h1>
        <p class="id"><code>${id}</code> <${CopyButton} text=${() => id} of="the endpoint id" />
          <button type="button" class="quiet" onClick=${share}>Share</button></p>
      </div>
      <${Views} id=${id} now="playground" />
    </div>
    <${Availability} of=${served} />
    <div class="bench">
      <section aria-labelledby="input-title">
        <h2 id="input-title">Input</h2>
        <${Form} input=${input} values=${values} problem=${problem} busy=${run?.busy.value ?? false} waits=${runs.value.some((each) => each.busy.value)} blocked=${blocked} onRun=${start}
          warnings=${run && !changed ? run.warnings.value : []} onCancel=${() => run.cancel()} onReset=${() => ((values.value = initialInput(input)), (problem.value = null))} />
      </section>
      <section aria-labelledby="result-title" class="result-side" ref=${place}>
        <h2 id="result-title">Result</h2>
        <${Result} run=${run} fields=${input.fields} onVary=${vary} onSameSeed=${sameSeed} models=${models} changed=${changed}
          onRestore=${() => restore(run)} onCancel=${() => run.cancel()} />
        <${Others} runs=${runs.value.filter((each) => each !== run)} onShow=${(each) => ((current.value = each), (problem.value = null))} />
      </section>
    </div>
    <section aria-labelledby="code-title" class="wide">
      <h2 id="code-title">The same as a program</h2>
      <${LanguageTabs} more=${[["json", "JSON", () => html`<${Bodies} id=${id} input=${sentInput(input, values.value)} run=${run} />`]]}
        body=${(language) => html`<${Program} language=${language} id=${id} input=${brief} />`} />
    </section>
    <p class="faint">Output: ${output.fields.map((field) => field.name).join(", ")}.${" "}
      <${Link} to=${`/models/${id}/api`}>Every field, with its type and default<//></p>`;
}

/** The latest runs, and whatever is still in progress. */
const kept = (runs) => runs.filter((run, at) => at < EARLIER || run.busy.value);

/** The form's own refusal of required fields that are empty; null: there are none. */
function refusal(fields) {
  const detail = fields.map(({ name, kind }) => ({ loc: ["body", name], msg: kind === "prompt" ? "Write what should be drawn, or choose an example." : "This is required." }));
  return detail.length ? new api.Problem(422, { detail }) : null;
}

/** The other runs of this visit: each with its own words, to be shown again or cancelled. */
function Others({ runs, onShow }) {
  if (!runs.length) return null;
  return html`<section class="others" aria-label="Other runs">
    <h3>Other runs</h3>
    <ul>${runs.map((run) => {
      const image = run.output.value?.images?.[0];
      return html`<li key=${run.submitted}>
        ${image && shownUrl(image.url) ? html`<img src=${shownUrl(image.url)} alt="" />` : html`<span class="no-image"></span>`}
        <span class="grow"><span class="clamped">${run.input.prompt || "No words"}</span><small class="faint">${sentence(run)}</small></span>
        ${run.busy.value && html`<button type="button" class="small" onClick=${() => run.cancel()} aria-label=${`Cancel: ${run.input.prompt}`}>Cancel</button>`}
        <button type="button" class="small" onClick=${() => onShow(run)} aria-label=${`Show: ${run.input.prompt}`}>Show</button>
      </li>`;
    })}</ul>
  </section>`;
}

/** Nothing when the endpoint can be drawn; else why not, and the commands that change it. Said before anything is uploaded. */
export function Availability({ of: model }) {
  const { status, reason, commands } = model?.impasto.availability ?? {};
  if (!status || status === "available") return null;
  if (status === "unsupported")
    return html`<div class="trouble unsupported" role="status">
      <p><b>The loaded model cannot draw this endpoint.</b> ${reason}</p>
      ${commands.length > 0 && html`<p>To serve it, run on the server's machine:</p><${Code} label="Commands that serve this endpoint">${commands.join("\n")}<//>`}
    </div>`;
  return html`<p class="warning" role="status">No runner draws for this endpoint at the moment: a request waits in the queue until one does.
    ${" "}<${Link} to="/dashboard">The dashboard<//> and the server's log say why.</p>`;
}

/** A program in every language; the browser remembers which one a person reads. */
export function LanguageTabs({ body, more = [] }) {
  const tabs = [...LANGUAGES.map(([language, title]) => [language, title, () => body(language)]), ...more];
  const [chosen, setChosen] = useState(recall(LANGUAGE));
  const choose = (language) => (setChosen(language), remember(LANGUAGE, language));
  const known = tabs.some(([language]) => language === chosen);
  return html`<${Tabs} label="Language" chosen=${known ? chosen : tabs[0][0]} onChoose=${choose} tabs=${tabs} />`;
}

export function Views({ id, now }) {
  const link = (to, name, title) => html`<${Link} to=${to} aria-current=${now === name ? "page" : undefined}>${title}<//>`;
  return html`<nav class="views" aria-label="Views of the model">
    ${link(`/models/${id}`, "playground", "Playground")} ${link(`/models/${id}/api`, "api", "API")}
    <a href=${`/models/${id}/llms.txt`}>llms.txt</a>
  </nav>`;
}

export function Program({ language, id, input }) {
  const { point, code } = program(language, { id, input, origin: location.origin });
  return html`${point && html`<p>The one line that points the client here:</p><${Code} label="The line that points the client here">${point}<//>`}
    <${Code} label=${`The request in ${language}`}>${code}<//>`;
}

function Bodies({ id, input, run }) {
  const output = run?.output.value ?? run?.problem.value?.body;
  return html`<h3>Request</h3>
    <${Code} label="The request's body">${JSON.stringify(input, null, 2)}<//>
    <h3>Response</h3>
    ${output && JSON.stringify(run.input) !== JSON.stringify(input) && html`<p class="faint">Of the run before the form was changed.</p>`}
    ${output
      ? html`<${Code} label="The response's body">${JSON.stringify(output, null, 2)}<//>`
      : html`<p class="faint">There is none yet.</p>`}
    <p class="faint">Sent to <code>POST /queue/${id}</code>.</p>`;
}
