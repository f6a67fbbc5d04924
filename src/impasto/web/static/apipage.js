// A model's API page: how to call it and every field, generated from its schema in the order of fal's own pages.
import { useEffect } from "preact/hooks";
import * as api from "./api.js";
import { Availability, LanguageTabs, Program, Views } from "./playground.js";
import { exampleInput, types } from "./schema.js";
import { Code, html, Tabs, Trouble, useAnswer, useTitle, Waiting } from "./ui.js";

const REQUEST_ID = "764cabcf-b745-4b3e-ae38-1200304cf45b";

export function ApiPage({ id }) {
  const [answer, error, again] = useAnswer(() => Promise.all([api.openapi(id, { app: true }), api.model(id)]), [id]);
  useEffect(() => {
    // The browser looked for the place that the address names before there was any.
    if (answer) document.getElementById(location.hash.slice(1))?.scrollIntoView({ behavior: "instant" });
  }, [answer]);
  useTitle(`${answer?.[1]?.metadata.display_name ?? id}, API`);
  if (error) return html`<${Trouble} title=${id} error=${error} retry=${again} />`;
  if (!answer) return html`<${Waiting}>Reading the schema of ${id}…<//>`;
  const [described, model] = answer;
  const { input, output, others: all } = types(described, id);
  const others = all.filter((type) => type.fields.length);
  const brief = exampleInput(input);
  const meta = model?.metadata ?? {};
  return html`<div class="model-head">
      <div>
        <h1>${meta.display_name ?? id}</h1>
        <p class="id"><code>${id}</code></p>
        <p>${meta.description ?? described.info.description}</p>
      </div>
      <${Views} id=${id} now="api" />
    </div>
    <${Availability} of=${model} />
    <div class="manual">
      <${Contents} others=${others} />
      <article>
        <${About} meta=${meta} drawn=${model?.impasto} />
        <${Calling} id=${id} input=${brief} />
        <${Authentication} />
        <${Queue} id=${id} input=${brief} />
        <${Files} />
        <${Schema} input=${input} output=${output} others=${others} />
      </article>
    </div>`;
}

function Contents({ others }) {
  const rows = [
    ["about", "About"], ["calling", "1. Calling the API"], ["authentication", "2. Authentication"], ["queue", "3. Queue"],
    ["files", "4. Files"], ["schema", "5. Schema"], ["input", "Input"], ["output", "Output"],
    ...(others.length ? [["other-types", "Other types"]] : []),
  ];
  return html`<nav class="contents" aria-label="On this page">
    <ul>${rows.map(([anchor, title]) => html`<li><a href=${`#${anchor}`}>${title}</a></li>`)}</ul>
  </nav>`;
}

function About({ meta, drawn }) {
  return html`<section aria-labelledby="about">
    <h2 id="about">About</h2>
    <p>${meta.description}</p>
    <p>${drawn?.availability.status === "unsupported" ? "The model that is loaded here cannot draw it; the top of this page says what can." : drawn?.served_by ? html`Served here by <code>${drawn.served_by}</code>${drawn.licence && ` (${drawn.licence})`}.` : "Nothing serves it here at the moment."}</p>
    <p>Programs written for fal's clients call it unchanged; they are pointed here by one line. All usages of the model must comply with
    its own terms.</p>
  </section>`;
}

function Calling({ id, input }) {
  return html`<section aria-labelledby="calling">
    <h2 id="calling">1. Calling the API</h2>
    <h3>Install the client</h3>
    <p>The client provides a convenient way to interact with the model API.</p>
    <${Tabs} label="Package manager" tabs=${[
      ["npm", "npm", () => html`<${Code} label="Install with npm">npm install --save @fal-ai/client<//>`],
      ["pip", "pip", () => html`<${Code} label="Install with pip">pip install fal-client<//>`],
    ]} />
    <h3>Setup your API Key</h3>
    <p>Set <code>FAL_KEY</code> as an environment variable in your runtime.</p>
    <${Code} label="Set the key">export FAL_KEY="YOUR_API_KEY"<//>
    <h3>Submit a request</h3>
    <p>The client API handles the API submit protocol. It will handle the request status updates and return the result when the request is
    completed.</p>
    <${LanguageTabs} body=${(language) => html`<${Program} language=${language} id=${id} input=${input} />`} />
  </section>`;
}

function Authentication() {
  return html`<section aria-labelledby="authentication">
    <h2 id="authentication">2. Authentication</h2>
    <p>The API uses an API Key for authentication. It is recommended you set the <code>FAL_KEY</code> environment variable in your runtime when
    possible. Keys of this server are made with <code>impasto keys create NAME</code>; on a loopback address any key passes.</p>
    <h3>API Key</h3>
    <p>In case your app is running in an environment where you cannot set environment variables, you can set the API Key manually as a client
    configuration.</p>
    <${Code} label="Set the key in JavaScript">${`import { fal } from "@fal-ai/client";

fal.config({
  credentials: "YOUR_FAL_KEY"
});`}<//>
    <p>Do not expose the key in a page: give the page a short-lived token, or the proxy at <code>/api/fal/proxy</code>.</p>
  </section>`;
}

function Queue({ id, input }) {
  const call = (text) => `import { fal } from "@fal-ai/client";\n\n${text}`;
  return html`<section aria-labelledby="queue">
    <h2 id="queue">3. Queue</h2>
    <h3>Submit a request</h3>
    <p>The client API provides a convenient way to submit requests to the model.</p>
    <${Code} label="Submit">${call(`const { request_id } = await fal.queue.submit("${id}", {
  input: ${JSON.stringify(input, null, 2).replaceAll("\n", "\n  ").replace(/^(\s*)"(\w+)":/gm, "$1$2:")},
  webhookUrl: "https://optional.webhook.url/for/results",
});`)}<//>
    <h3>Fetch request status</h3>
    <p>You can fetch the status of a request to check if it is completed or still in progress.</p>
    <${Code} label="Status">${call(`const status = await fal.queue.status("${id}", {
  requestId: "${REQUEST_ID}",
  logs: true,
});`)}<//>
    <h3>Get the result</h3>
    <p>Once the request is completed, you can fetch the result. See the <a href="#output">Output Schema</a> for the expected result format.</p>
    <${Code} label="Result">${call(`const result = await fal.queue.result("${id}", {
  requestId: "${REQUEST_ID}"
});
console.log(result.data);
console.log(result.requestId);`)}<//>
    <h3>Webhooks</h3>
    <p>With <code>webhookUrl</code> the result is posted to your server when it is there, signed with this server's own key
    (<a href="/.well-known/jwks.json">JWKS</a>), and again with growing pauses until your server answers 2xx.</p>
  </section>`;
}

function Files() {
  return html`<section aria-labelledby="files">
    <h2 id="files">4. Files</h2>
    <p>Some attributes in the API accept file URLs as input. Whenever that's the case you can pass your own URL or a Base64 data URI.</p>
    <h3>Data URI (base64)</h3>
    <p>You can pass a Base64 data URI as a file input. The API will handle the file decoding for you. Keep in mind that for large files, this
    alternative although convenient can impact the request performance.</p>
    <h3>Hosted files (URL)</h3>
    <p>You can also pass your own URLs as long as they are publicly accessible. Be aware that some hosts might block cross-site requests,
    rate-limit, or consider the request as a bot.</p>
    <h3>Uploading files</h3>
    <p>We provide a convenient file storage that allows you to upload files and use them in your requests. You can upload files using the client
    API and use the returned URL in your requests.</p>
    <${Code} label="Upload">${`import { fal } from "@fal-ai/client";

const file = new File(["Hello, World!"], "hello.txt", { type: "text/plain" });
const url = await fal.storage.upload(file);`}<//>
  </section>`;
}

function Schema({ input, output, others }) {
  return html`<section aria-labelledby="schema">
    <h2 id="schema">5. Schema</h2>
    <h3 id="input">Input</h3>
    <${Fields} fields=${input.fields} of=${input.name} />
    ${input.example && html`<${Code} label="An example input">${JSON.stringify(input.example, null, 2)}<//>`}
    <h3 id="output">Output</h3>
    <${Fields} fields=${output.fields} of=${output.name} />
    ${others.length > 0 && html`<h3 id="other-types">Other types</h3>`}
    ${others.filter((type) => !type.endpoint).map((type) => html`<h4 id=${`type-${type.name}`}>${type.name}</h4><${Fields} fields=${type.fields} of=${type.name} />`)}
    ${others.filter((type) => type.endpoint).map((type) => html`<details class="type"><summary><h4 id=${`type-${type.name}`}>${type.name}</h4>
      <span class="faint">the input of ${type.endpoint}</span></summary><${Fields} fields=${type.fields} of=${type.name} /></details>`)}
  </section>`;
}

function Fields({ fields, of }) {
  return html`<dl class="fields" data-type=${of}>
    ${fields.map((field) => html`<div class="row-of-field" data-field=${field.name}>
      <dt>
        <code class="name">${field.name}</code> <span class="type">${field.shown}</span>
        ${field.required && html`<span class="badge">required</span>`}
        ${field.apiOnly && field.name === "safety_tolerance" && html`<span class="badge">API only</span>`}
      </dt>
      <dd>
        ${field.description && html`<p>${field.description}</p>`}
        ${field.default !== undefined && html`<p>Default value: <code>${JSON.stringify(field.default)}</code></p>`}
        ${field.words.length > 0 && html`<p>Possible enum values: <code>${field.words.join(", ")}</code></p>`}
        ${bounds(field) && html`<p>${bounds(field)}</p>`}
        ${field.kind === "size" && html`<p>Note: For custom image sizes, you can pass the <code>width</code> and <code>height</code> as an object:</p>
          <${Code} label="A custom size">${'"image_size": {\n  "width": 1280,\n  "height": 720\n}'}<//>`}
        ${field.name === "safety_tolerance" && html`<p>Note: This property is only available through API calls.</p>`}
      </dd>
    </div>`)}
  </dl>`;
}

function bounds(field) {
  if (field.name === "seed" || field.kind === "size") return "";
  const { minimum, maximum } = field;
  if (minimum !== undefined && maximum !== undefined) return `Between ${minimum} and ${maximum}.`;
  if (minimum !== undefined) return `At least ${minimum}.`;
  return maximum === undefined ? "" : `At most ${maximum}.`;
}
