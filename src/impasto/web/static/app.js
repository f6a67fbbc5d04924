// The frame of every page: header, the page of the path, the key dialog, what is said aside. START READING THE PAGES HERE.
//
//   api      the wire            schema   an OpenAPI document → fields      run      one request → signals
//   form(s)  the input           result   the picture in the making         code     the same as a program
//   pictures · mask  what goes in            plots · deliveries · keys       parts of the dashboard
//   storage  what the browser keeps
//   playground · apipage · models · history · compare · dashboard            one page each
import { render } from "preact";
import { useErrorBoundary, useState } from "preact/hooks";
import { asksForKey, key, keepKey } from "./api.js";
import { go, html, Link, nextTheme, notice, path, theme, Trouble, useAnswer, useTitle } from "./ui.js";
import { Playground } from "./playground.js";

const FIRST = "fal-ai/flux-pro"; // what a new visitor draws with

/** Pages that are not the first one are fetched when they are asked for. */
function Later({ file, name, ...more }) {
  const [tries, setTries] = useState(0);
  // The browser remembers that a module could not be fetched; another query is another module.
  const [module, error] = useAnswer(() => import(tries ? `${file}?${tries}` : file), [file, tries]);
  if (error) return html`<${Trouble} title="This page could not be fetched" error=${error} retry=${() => setTries(tries + 1)} />`;
  return module && html`<${module[name]} ...${more} />`;
}

const ROUTES = [
  [/^\/$/, () => html`<${Playground} id=${FIRST} />`],
  [/^\/models$/, () => html`<${Later} file="./models.js" name="Models" />`],
  [/^\/models\/(.+)\/api$/, (id) => html`<${Later} file="./apipage.js" name="ApiPage" id=${id} key=${id} />`],
  [/^\/models\/(.+)$/, (id) => html`<${Playground} id=${id} key=${id} />`],
  [/^\/history$/, () => html`<${Later} file="./history.js" name="History" />`],
  [/^\/history\/(.+)$/, (id) => html`<${Later} file="./history.js" name="PastRequest" requestId=${id} key=${id} />`],
  [/^\/compare$/, () => html`<${Later} file="./compare.js" name="Compare" />`],
  [/^\/dashboard$/, () => html`<${Later} file="./dashboard.js" name="Dashboard" />`],
];

const told = (name) => document.querySelector(`meta[name="impasto-${name}"]`)?.content ?? "";
const FIRST_PATH = path.value;

/** What the server refused at the address that the browser opened. */
function Refusal({ status, why }) {
  const title = status === "404" ? "There is nothing at this address" : status === "405" ? "This address is for programs" : "This cannot be shown";
  useTitle(title);
  return html`<h1>${title}</h1>
    <p><code>${location.pathname}</code></p>
    ${why && html`<p>${why}</p>`}
    <p class="row"><${Link} to="/" class="button">Playground<//> <${Link} to="/models" class="button">Models<//>
      ${" "}<${Link} to="/history" class="button">History<//></p>
    <p class="faint">HTTP status ${status}. <a href="/openapi.json">What this server answers</a>, for programs.</p>`;
}

function Page() {
  if (told("status") && path.value === FIRST_PATH) return html`<${Refusal} status=${told("status")} why=${told("problem")} />`;
  const now = path.value.replace(/(.)\/$/, "$1");
  for (const [pattern, page] of ROUTES) {
    const found = pattern.exec(now);
    if (found) return page(...found.slice(1).map(decodeURIComponent));
  }
  return html`<${Refusal} status="404" why="" />`;
}

const NAVIGATION = [
  ["/", "Playground"],
  ["/models", "Models"],
  ["/compare", "Compare"],
  ["/history", "History"],
  ["/dashboard", "Dashboard"],
];

function Header() {
  const [asked, setAsked] = useState(false);
  return html`<header>
      <a class="skip" href="#main">Skip to the page</a>
      <${Link} to="/" class="brand"><img src="/static/icon.svg" alt="" width="28" height="28" />impasto<//>
      <nav aria-label="Pages">
        ${NAVIGATION.map(([to, title]) => html`<${Link} to=${to} aria-current=${path.value === to ? "page" : undefined}>${title}<//>`)}
      </nav>
      <div class="row">
        <button type="button" class="quiet" onClick=${nextTheme} aria-label=${`Colours: ${theme.value}. Change`} title=${`Colours: ${theme.value}`}>
          ${{ auto: "◐", light: "☀", dark: "☾" }[theme.value]}</button>
        <button type="button" class="quiet" onClick=${() => setAsked(true)}>${key.value ? "Key set" : "API key"}</button>
      </div>
    </header>
    ${(asked || asksForKey.value) && html`<${KeyDialog} onClose=${() => (setAsked(false), (asksForKey.value = ""))} />`}`;
}

function KeyDialog({ onClose }) {
  const show = (dialog) => dialog && !dialog.open && dialog.showModal();
  const [text, setText] = useState(key.value);
  const save = (event) => {
    event.preventDefault();
    keepKey(text);
    onClose();
    go(location.pathname + location.search, { replace: true });
    location.reload();
  };
  return html`<dialog ref=${show} class="key" aria-labelledby="key-title" onClose=${onClose}>
    <form onSubmit=${save}>
      <h2 id="key-title">API key</h2>
      <p>${asksForKey.value || "Needed where the server asks for one; on your own machine it does not."} It stays in this
      browser. <code>impasto keys create NAME</code> makes one.</p>
      <label>Key <input type="password" autocomplete="off" spellcheck=${false} value=${text} placeholder="key_id:key_secret"
        onInput=${(event) => setText(event.target.value)} /></label>
      <div class="actions"><button type="submit" class="primary">Save</button>
        <button type="button" onClick=${onClose}>Close</button></div>
    </form>
  </dialog>`;
}

/** A fault of a page is told on it, and the others still work. */
function Guarded() {
  const [error, reset] = useErrorBoundary((fault) => console.error(fault));
  return error ? html`<${Trouble} title="This page has failed" error=${error} retry=${reset} />` : html`<${Page} />`;
}

function App() {
  return html`<${Header} />
    <main id="main" tabindex="-1"><${Guarded} key=${path.value} /></main>
    <div class="notice" role="status" aria-live="polite">${notice.value}</div>`;
}

render(html`<${App} />`, document.getElementById("app"));
