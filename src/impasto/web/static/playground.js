// An endpoint to try: the form, the picture in the making, the same as a program. The first page a person sees.
import { signal } from "@preact/signals-core";
import { useMemo } from "preact/hooks";
import * as api from "./api.js";
import { LANGUAGES, program } from "./code.js";
import { Form } from "./form.js";
import { valuesOf } from "./forms.js";
import { Result } from "./result.js";
import { Run } from "./run.js";
import { briefInput, sentInput, types } from "./schema.js";
import { Code, CopyButton, html, Link, Tabs, Trouble, useAnswer, Waiting } from "./ui.js";

const runs = new Map(); // endpoint id → signal of its last run: leaving the page does not end it

function runOf(id) {
  if (!runs.has(id)) runs.set(id, signal(null));
  return runs.get(id);
}

export function Playground({ id }) {
  const [document, error, again] = useAnswer(() => api.openapi(id), [id]);
  const [models] = useAnswer(api.models, []);
  if (error) return html`<${Trouble} error=${error} retry=${again} />`;
  if (!document) return html`<${Waiting}>Reading the schema of ${id}…<//>`;
  return html`<${Ready} key=${id} id=${id} document=${document} models=${models} />`;
}

function Ready({ id, document, models }) {
  const { input, output } = useMemo(() => types(document, id), [document, id]);
  const values = valuesOf(id, input);
  const problem = useMemo(() => signal(null), [id]);
  const current = runOf(id);
  const run = current.value;
  const model = models?.find((each) => each.endpoint_id === id);
  const start = async () => {
    problem.value = null;
    const next = new Run(id, sentInput(input, values.value));
    current.value = next;
    await next.start();
    if (next.problem.value) problem.value = next.problem.value;
  };
  const again = (changes) => {
    values.value = { ...values.value, ...changes };
    return start();
  };
  const brief = briefInput(input, values.value);
  return html`<div class="model-head">
      <div>
        <h1>${model?.metadata?.display_name ?? id}</h1>
        <p class="id"><code>${id}</code> <${CopyButton} text=${() => id} of="the endpoint id" /></p>
      </div>
      <${Views} id=${id} now="playground" />
    </div>
    <div class="bench">
      <section aria-labelledby="input-title">
        <h2 id="input-title">Input</h2>
        <${Form} input=${input} values=${values} problem=${problem} busy=${run?.busy.value ?? false} onRun=${start}
          onCancel=${() => run.cancel()} />
      </section>
      <section aria-labelledby="result-title" class="result-side">
        <h2 id="result-title">Result</h2>
        <${Result} run=${run} fields=${input.fields} onAgain=${again} models=${models} />
      </section>
    </div>
    <section aria-labelledby="code-title" class="wide">
      <h2 id="code-title">The same as a program</h2>
      <${Tabs} label="Language" tabs=${[
        ...LANGUAGES.map(([language, title]) => [language, title, () => html`<${Program} language=${language} id=${id} input=${brief} />`]),
        ["json", "JSON", () => html`<${Bodies} id=${id} input=${sentInput(input, values.value)} run=${run} />`],
      ]} />
    </section>
    <p class="faint">Output: ${output.fields.map((field) => field.name).join(", ")}.${" "}
      <${Link} to=${`/models/${id}/api`}>Every field, with its type and default<//></p>`;
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
  const output = run?.output.value;
  return html`<h3>Request</h3>
    <${Code} label="The request's body">${JSON.stringify(input, null, 2)}<//>
    <h3>Response</h3>
    ${output
      ? html`<${Code} label="The response's body">${JSON.stringify(output, null, 2)}<//>`
      : html`<p class="faint">There is none yet.</p>`}
    <p class="faint">Sent to <code>POST /queue/${id}</code>.</p>`;
}
