// What several pages share: html`…`, links, buttons, small signals of the page itself.
import { h } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { signal } from "@preact/signals";
import htm from "htm";
import { asksForKey } from "./api.js";
import { recall, remember } from "./storage.js";

export const html = htm.bind(h);

// ---------------------------------------------------------------- where we are

export const path = signal(location.pathname);

/** Go to a page of ours without loading it anew. */
export function go(to, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", to);
  path.value = location.pathname;
  document.documentElement.scrollTop = 0;
  document.getElementById("main")?.focus({ preventScroll: true }); // where a screen reader and Tab go on from
}

/** What the tab of the browser says. */
export function useTitle(title) {
  useEffect(() => void (document.title = title ? `${title} · impasto` : "impasto"), [title]);
}

addEventListener("popstate", () => (path.value = location.pathname));

export function Link({ to, children, ...more }) {
  const click = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    go(to);
  };
  return html`<a href=${to} onClick=${click} ...${more}>${children}</a>`;
}

/** Whether the page is so narrow that the result stands below the form: as in the style sheet. */
export const narrow = () => matchMedia("(max-width: 56rem)").matches;

// ---------------------------------------------------------------- lists and numbers

/** A key for every row of a list (and for the row to come), and what changes the list as it is by then: an upload that ends late
 * must neither bring back what stood at its begin nor end in another row than its own. */
export function useRows(list, onChange) {
  const latest = useRef(list);
  const keys = useRef([]);
  const nextKey = useRef(0);
  latest.current = list;
  while (keys.current.length <= list.length) keys.current.push(nextKey.current++);
  const change = (rows) => onChange((latest.current = rows));
  const find = (key, then) => {
    const at = keys.current.indexOf(key);
    if (at >= 0 && at < latest.current.length) then(at, latest.current);
  };
  return {
    keys: keys.current,
    add: (row) => change([...latest.current, row]),
    /** As `add`, and what stands for the row to come goes on standing for the next one. */
    insert: (row) => (keys.current.splice(latest.current.length, 0, nextKey.current++), change([...latest.current, row])),
    set: (key, changed) => find(key, (at, rows) => change(rows.with(at, changed(rows[at])))),
    remove: (key) => find(key, (at, rows) => (keys.current.splice(at, 1), change(rows.toSpliced(at, 1)))),
  };
}

/** A box for a number. What is typed stands as typed: written back as a number, "1.0" would lose its dot on the way to 1.05. */
export function NumberInput({ value, onChange, ...more }) {
  const box = useRef(null);
  const typed = () => (box.current.value === "" ? undefined : box.current.valueAsNumber);
  useLayoutEffect(() => {
    if (typed() !== (value ?? undefined)) box.current.value = value ?? "";
  });
  return html`<input type="number" ref=${box} ...${more} onInput=${() => onChange(typed())} />`;
}

// ---------------------------------------------------------------- light and dark

const THEME = "impasto.theme";
export const theme = signal(recall(THEME) || "auto");

document.documentElement.dataset.theme = theme.value;

export function nextTheme() {
  theme.value = { auto: "light", light: "dark", dark: "auto" }[theme.value];
  remember(THEME, theme.value);
  document.documentElement.dataset.theme = theme.value;
}

// ---------------------------------------------------------------- what is said aside

export const notice = signal("");
let silence;

/** A short sentence at the foot of the page, read out by screen readers, gone after some seconds. */
export function say(text) {
  notice.value = text;
  clearTimeout(silence);
  silence = setTimeout(() => (notice.value = ""), 4000);
}

// ---------------------------------------------------------------- small parts

export async function copy(text, what = "Copied") {
  try {
    await navigator.clipboard.writeText(text);
    say(what);
  } catch {
    say("The browser does not allow copying here; select the text instead.");
  }
}

export function CopyButton({ text, label = "Copy", of = "the code" }) {
  return html`<button type="button" class="quiet" aria-label=${`${label}: ${of}`} onClick=${() => copy(text())}>${label}</button>`;
}

/** Text in a frame with a copy button. */
export function Code({ children, label, wrap = false }) {
  return html`<div class="code">
    <pre tabindex="0" role="region" aria-label=${label} class=${wrap ? "wrap" : ""}><code>${children}</code></pre>
    <${CopyButton} text=${() => String(children)} of=${label} />
  </div>`;
}

/** Tabs after the WAI-ARIA pattern: arrows move, one tab stop. `tabs`: [id, title, body()]. */
export function Tabs({ tabs, label, chosen, onChoose }) {
  const [own, setOwn] = useState(tabs[0][0]);
  const now = chosen ?? own;
  const choose = onChoose ?? setOwn;
  const move = (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const at = tabs.findIndex(([id]) => id === now);
    const [next] = tabs[(at + by + tabs.length) % tabs.length];
    choose(next);
    event.currentTarget.querySelector(`[data-tab="${next}"]`)?.focus();
    event.preventDefault();
  };
  const [, title, body] = tabs.find(([id]) => id === now) ?? tabs[0];
  return html`<div class="tabs">
    <div role="tablist" aria-label=${label} onKeyDown=${move}>
      ${tabs.map(
        ([id, name]) =>
          html`<button type="button" role="tab" data-tab=${id} aria-selected=${id === now ? "true" : "false"}
            tabindex=${id === now ? 0 : -1} onClick=${() => choose(id)}>${name}</button>`,
      )}
    </div>
    <div role="tabpanel" aria-label=${title}>${body()}</div>
  </div>`;
}

export function Waiting({ children = "Loading…" }) {
  return html`<p class="waiting" role="status">${children}</p>`;
}

/** Why a page, or a part of one, cannot be shown, and what to do. `title`: of a page that shows nothing else. */
export function Trouble({ error, retry, title }) {
  return html`${title && html`<h1>${title}</h1>`}
  <div class="trouble" role="alert">
    <p>${error.message}</p>
    ${error.requestId && html`<p class="faint">Request ${error.requestId}</p>`}
    ${retry && html`<p class="row"><button type="button" onClick=${retry}>Try again</button>
      ${error.status === 403 && html`<button type="button" onClick=${() => (asksForKey.value = "This needs another key.")}>Use another key</button>`}</p>`}
  </div>`;
}

/** `[value, error, again]` of a promise that `ask` gives; asked again when `on` changes. An answer is shown only for the `on`
 * that it belongs to: between a change and its answer there is none. */
export function useAnswer(ask, on) {
  const [turn, setTurn] = useState(0);
  const [state, setState] = useState({});
  const asked = [...on, turn];
  useEffect(() => {
    let wanted = true;
    ask().then(
      (value) => wanted && setState({ asked, value }),
      (error) => wanted && setState({ asked, error }),
    );
    return () => (wanted = false);
  }, asked);
  const { value, error } = same(state.asked, asked) ? state : {};
  return [value, error, () => setTurn(turn + 1)];
}

const same = (one, other) => one !== undefined && one.every((each, at) => Object.is(each, other[at]));

/** `[value, error, again, stale]`, as `useAnswer` and asked again and again: `pause(value)` milliseconds after an answer, 0: no
 * more. The last answer stays until the next one arrives; `stale`: it belongs to another `on` than the present one, so nothing
 * may be concluded from it. A refusal (4xx) is not asked about again. */
export function useLive(ask, on, pause) {
  const [turn, setTurn] = useState(0);
  const [state, setState] = useState({});
  useEffect(() => {
    let wanted = true;
    let timer;
    const look = async () => {
      let wait = HOPE;
      try {
        const value = await ask();
        if (!wanted) return;
        setState({ on, value });
        wait = pause(value);
      } catch (error) {
        if (!wanted) return;
        setState((last) => ({ on, value: error.status || !same(last.on, on) ? undefined : last.value, error }));
        if (error.status >= 400 && error.status < 500) return;
      }
      if (wait) timer = setTimeout(look, document.hidden ? 5 * wait : wait);
    };
    look();
    return () => ((wanted = false), clearTimeout(timer));
  }, [...on, turn]);
  return [state.value, state.error, () => setTurn(turn + 1), !same(state.on, on)];
}

/** `[busy, act]`: `act` once at a time; its button shows that by `disabled=${busy}`, so that two clicks do not act twice. */
export function useBusy(act) {
  const [busy, setBusy] = useState(false);
  const running = useRef(false);
  return [busy, async (...given) => {
    if (running.current) return;
    setBusy((running.current = true));
    try {
      await act(...given);
    } finally {
      setBusy((running.current = false));
    }
  }];
}

const HOPE = 5000; // milliseconds until a server that did not answer is asked again

// ---------------------------------------------------------------- numbers for people

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value > 0 && value < 0.1) return `${Math.max(1, Math.round(value * 1000))} ms`;
  return value < 10 ? `${value.toFixed(2)} s` : value < 120 ? `${value.toFixed(1)} s` : `${Math.round(value / 60)} min`;
}

export function when(time) {
  const date = typeof time === "number" ? new Date(time * 1000) : new Date(time);
  return Number.isNaN(date.getTime()) ? "–" : date.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

/** "Num Inference Steps" → "Num inference steps": one way to write titles, whoever wrote them. */
export function sentenceCase(title) {
  const words = title.split(" ").map((word, n) => (n === 0 || /^[A-Z0-9]{2,}$/.test(word) ? word : word.toLowerCase()));
  return words.join(" ").replace(/\burls?\b/gi, (word) => (word.length > 3 ? "URLs" : "URL")).replace(/\blora(s?)\b/gi, "LoRA$1");
}

export function count(number, one, many = `${one}s`) {
  return `${number} ${number === 1 ? one : many}`;
}

/** Where the page may show the picture of `url` from: a file of this server, under the name that the page has; else "", as for
 * an address that is still being typed. */
export function shownUrl(url) {
  if (/^(data:[^,]*,|blob:)/.test(url)) return url;
  try {
    const { origin, pathname, search } = new URL(url);
    return pathname.startsWith(origin === location.origin ? "/files/" : "/files/b/") ? pathname + search : "";
  } catch {
    return "";
  }
}
