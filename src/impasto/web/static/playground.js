// An endpoint to try: the form, the picture in the making, the same as a program. The first page a person sees.
import { signal } from "@preact/signals-core";
import { useMemo, useRef, useState } from "preact/hooks";
import * as api from "./api.js";
import { LANGUAGES, program } from "./code.js";
import { Form } from "./form.js";
import { linkTo, valuesOf } from "./forms.js";
import { uploads } from "./pictures.js";
import { Result } from "./result.js";
import { Run } from "./run.js";
import { briefInput, initialInput, sentInput, types, unreadFields } from "./schema.js";
import { recall, remember } from "./storage.js";
import { Code, copy, CopyButton, html, Link, narrow, say, Tabs, Trouble, useAnswer, useLive, useTitle, Waiting } from "./ui.js";

const SERVED_SOON = 3000; // milliseconds between looks whether a runner serves the endpoint by now
const LANGUAGE = "impasto.language";
const lasts = new Map(); // endpoint id → signals of its last run and of what the form is still shown as wrong for: leaving the page ends neither

function lastOf(id) {
  if (!lasts.has(id)) lasts.set(id, { current: signal(null), problem: signal(null) });
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
  const { current, problem } = lastOf(id);
  const run = current.value;
  const place = useRef();
  const model = models?.find((each) => each.endpoint_id === id);
  const unread = unreadFields(input, values.value).map((field) => field.title);
  const blocked = uploads.value ? "A picture is still being uploaded." : unread.length ? `${unread.join(", ")}: mend it or empty it, then it can be run.` : "";
  const start = async () => {
    if (blocked) return say(blocked);
    problem.value = null;
    const next = new Run(id, sentInput(input, values.value));
    current.value = next;
    if (narrow()) place.current?.scrollIntoView();
    await next.start();
    if (current.value === next) problem.value = next.problem.value;
  };
  const again = (changes) => {
    values.value = { ...values.value, ...changes };
    return start();
  };
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
    <${Served} id=${id} />
    <div class="bench">
      <section aria-labelledby="input-title">
        <h2 id="input-title">Input</h2>
        <${Form} input=${input} values=${values} problem=${problem} busy=${run?.busy.value ?? false} blocked=${blocked} onRun=${start}
          onCancel=${() => run.cancel()} onReset=${() => ((values.value = initialInput(input)), (problem.value = null))} />
      </section>
      <section aria-labelledby="result-title" class="result-side" ref=${place}>
        <h2 id="result-title">Result</h2>
        <${Result} run=${run} fields=${input.fields} onAgain=${again} models=${models} onCancel=${() => run.cancel()} />
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

/** Nothing when a runner draws for the endpoint; else that its requests will wait. */
function Served({ id }) {
  const [model] = useLive(() => api.model(id), [id], (found) => (found?.impasto.served_by === null ? SERVED_SOON : 0));
  if (model?.impasto.served_by !== null || !model) return null;
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
