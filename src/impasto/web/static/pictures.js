// Pictures that go in: dropped, pasted, chosen or named by URL, and uploaded as fal's JavaScript client does it.
import { signal } from "@preact/signals-core";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import * as api from "./api.js";
import { html, say, shownUrl, useRows } from "./ui.js";

export const uploads = signal(0); // that run for the form on the page
const boxes = new Set(); // every picture field on the page, which one pasted picture goes to one of

/** Where a pasted picture goes: the field that has the focus or the pointer, else the first empty one. */
function chosenBox() {
  const shown = [...boxes];
  const at = (test) => shown.find(({ box }) => box.current && test(box.current));
  return at((box) => box.parentElement.contains(document.activeElement)) ?? at((box) => box.matches(":hover")) ?? shown.find(({ filled }) => !filled) ?? shown[0];
}

/** Whether `event` pastes text into a box for text: cells of a spreadsheet come with a picture of themselves. */
function isText({ target, clipboardData }) {
  const box = target.closest?.("textarea, input:not([type=checkbox], [type=range], [type=file])");
  return Boolean(box) && clipboardData.types.includes("text/plain");
}

addEventListener("paste", (event) => {
  if (!event.clipboardData?.files.length || !boxes.size || isText(event)) return;
  event.preventDefault();
  chosenBox().take(event.clipboardData.files);
});

/** `adds`: puts each picture into the list that the box is the blank one of; without it the last one stays, whichever is uploaded
 * first. `full`: that list takes no more, and the box is there only until its uploads end. */
export function Picture({ value, onChange, aria, adds, full = false, children }) {
  const box = useRef();
  const running = useRef(null); // what aborts the upload that would fill this box
  const [busy, setBusy] = useState(0); // uploads
  const [over, setOver] = useState(false);
  const [wrong, setWrong] = useState("");
  const take = async (files) => {
    const file = [...files].find((each) => each.type.startsWith("image/"));
    if (!file) return setWrong("That is no picture. Take a JPEG, PNG, WebP, GIF or AVIF.");
    setWrong("");
    setBusy((n) => n + 1);
    const own = new AbortController();
    if (!adds) {
      running.current?.abort();
      running.current = own;
    }
    try {
      const url = await api.upload(file, own.signal);
      if (own.signal.aborted) return;
      (adds ?? onChange)(url);
      say(`Uploaded ${file.name || "the picture"}`);
    } catch (error) {
      if (!own.signal.aborted) setWrong(error.message);
    } finally {
      setBusy((n) => n - 1);
    }
  };
  /** What a person types or removes holds, whatever is still being uploaded. */
  const set = (url) => {
    running.current?.abort();
    onChange(url);
  };
  useLayoutEffect(() => {
    uploads.value += busy;
    return () => (uploads.value -= busy);
  }, [busy]);
  const gone = full && !busy;
  useLayoutEffect(() => {
    if (gone) return;
    const own = { box, take, filled: Boolean(value) };
    boxes.add(own);
    return () => boxes.delete(own);
  });
  const drop = (event) => {
    event.preventDefault();
    setOver(false);
    take(event.dataTransfer.files);
  };
  if (gone) return null;
  return html`<div class=${`drop ${over ? "is-over" : ""}`} ref=${box} onDragOver=${(event) => (event.preventDefault(), setOver(true))}
      onDragLeave=${() => setOver(false)} onDrop=${drop}>
      ${value
        ? shownUrl(value)
          ? html`<img src=${shownUrl(value)} alt="The picture that goes in" />`
          : html`<p class="about">The server will fetch it.</p>`
        : !busy && html`<p>Drop a picture here, paste one, or</p>`}
      ${busy > 0 && html`<p role="status">Uploading…</p>`}
      <span class="row">
        <label class="button">${value ? "Another one" : "Choose a file"}
          <input type="file" accept="image/*" class="hidden-file" aria-label="Choose a picture" onChange=${(event) => (take(event.target.files), (event.target.value = ""))} /></label>
        ${children}
        ${value && html`<button type="button" onClick=${() => set(undefined)}>Remove</button>`}
      </span>
    </div>
    <input type="text" ...${aria} value=${value ?? ""} placeholder="or the URL of a picture" inputmode="url" spellcheck=${false}
      onInput=${(event) => set(event.target.value || undefined)} />
    ${wrong && html`<p class="wrong" role="alert">${wrong}</p>`}`;
}

export function Pictures({ field, value, onChange, aria }) {
  const list = value ?? [];
  const rows = useRows(list, onChange);
  const full = field.maxItems !== undefined && list.length >= field.maxItems;
  const set = (key, url) => (url ? rows.set(key, () => url) : rows.remove(key));
  const named = (at) => ({ ...aria, id: `${aria.id}-${at}`, "aria-label": `${field.title}, ${at + 1}` });
  // The blank box is one of the list: with its first letter it becomes a row, and what is typed goes on in the same box. A picture
  // comes in before it: whoever chooses the next one from it meanwhile does not replace the one that has just come.
  const keys = rows.keys.slice(0, list.length + 1);
  return html`<div id=${aria.id}>
    ${keys.map((key, at) => at < list.length
      ? html`<${Picture} key=${key} field=${field} value=${list[at]} onChange=${(url) => set(key, url)} aria=${named(at)} />`
      : html`<${Picture} key=${key} field=${field} adds=${rows.insert} full=${full} onChange=${(url) => url && rows.add(url)} aria=${named(at)} />`)}
  </div>`;
}

/** As a picture, and it can be painted over the picture beside it. */
export function Mask({ field, value, onChange, aria, beside }) {
  const [Painter, setPainter] = useState(null);
  const under = Object.entries(beside ?? {}).find(([name, url]) => /image_url$/.test(name) && url && shownUrl(url))?.[1];
  const open = async () => {
    const { MaskPainter } = await import("./mask.js");
    setPainter(() => MaskPainter);
  };
  return html`<${Picture} field=${field} value=${value} onChange=${onChange} aria=${aria}>
      ${under && html`<button type="button" onClick=${open}>Paint it</button>`}
    <//>
    ${!under && html`<p class="about">With an uploaded picture above, the mask can be painted over it.</p>`}
    ${Painter && under && html`<${Painter} under=${shownUrl(under)} onDone=${onChange} onClose=${() => setPainter(null)} />`}`;
}
