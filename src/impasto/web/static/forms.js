// What stands in the forms: one signal of values an endpoint, kept for the session, filled from elsewhere on demand.
import { signal } from "@preact/signals-core";
import { initialInput, readSeed, withPicture } from "./schema.js";
import { go, say } from "./ui.js";

const PICTURE = "*picture"; // goes into whichever field of the endpoint takes one; no field has such a name
const KEPT = "impasto.input.";
const SHARED = "#input="; // a link's form: JSON after it
const LONGEST = 8000; // characters of a link that mail and chat still carry
const forms = new Map(); // endpoint id → {input: its type, values: signal of what stands in the form}

export function valuesOf(id, input) {
  if (!forms.has(id)) {
    const values = signal(filled(input, shared() ?? kept(id)));
    values.subscribe((now) => keep(id, now));
    forms.set(id, { input, values });
    // A link to this very page is only another fragment: the page is not loaded anew.
    addEventListener("hashchange", () => {
      const given = location.pathname === `/models/${id}` && shared();
      if (given) values.value = filled(input, given);
    });
  }
  return forms.get(id).values;
}

/** Open the form of `id` with `input` in it. */
export function open(id, input) {
  const form = forms.get(id);
  if (form) form.values.value = filled(form.input, input);
  else keep(id, input);
  go(`/models/${id}`);
}

/** The form's values for `input`: what it says, and defaults for the rest. */
export function filled(input, { [PICTURE]: picture, ...given }) {
  const values = { ...initialInput(input), ...wellFormed(input, given) };
  return picture ? withPicture(input, values, picture) : values;
}

/** Without lists that are none: a queue stores what a program sends, and a link says what it likes. A seed that a browser cannot
 * hold is told, not rounded. */
function wellFormed(input, { seed, ...more }) {
  const given = typeof seed === "number" ? { ...more, seed: readSeed(String(seed)) } : more;
  const fits = { rows: (each) => typeof each === "object" && each !== null, images: (each) => typeof each === "string" };
  return Object.fromEntries(
    Object.entries(given).filter(([name, value]) => {
      const fit = fits[input.fields.find((field) => field.name === name)?.kind];
      return !fit || (Array.isArray(value) && value.every(fit));
    }),
  );
}

/** "Use as input": the first endpoint that takes a picture, of the same family if there is one. The prompt goes along. */
export function openWithPicture(models, id, url, prompt) {
  const able = ({ metadata, impasto }) => metadata.category === "image-to-image" && impasto.availability.status !== "unsupported";
  const takes = (models ?? []).filter(able).map((each) => each.endpoint_id);
  const family = id.split("/").slice(0, 2).join("/");
  const target = takes.find((each) => each === id) ?? takes.find((each) => each.startsWith(`${id}/`)) ?? takes.find((each) => each.startsWith(`${family}/`)) ?? takes[0];
  if (target) open(target, { ...(prompt ? { prompt } : {}), [PICTURE]: url });
  else say("No endpoint of this server takes a picture.");
}

/** A link to the form of `id` as it stands; "" when it would be too long. */
export function linkTo(id, input) {
  const link = `${location.origin}/models/${id}${SHARED}${encodeURIComponent(JSON.stringify(input))}`;
  return link.length <= LONGEST ? link : "";
}

/** What the page's own address says of the form; taken out of it, so that a reload keeps what was changed since. null: nothing. */
function shared() {
  if (!location.hash.startsWith(SHARED)) return null;
  const text = location.hash.slice(SHARED.length);
  history.replaceState(null, "", location.pathname + location.search);
  try {
    const input = JSON.parse(decodeURIComponent(text));
    if (typeof input === "object" && input !== null && !Array.isArray(input)) return input;
    throw new Error("no object");
  } catch {
    say("The link is damaged; the form stands as it was.");
    return null;
  }
}

function keep(id, values) {
  try {
    sessionStorage.setItem(KEPT + id, JSON.stringify(values));
  } catch {
    // a data URI larger than the browser keeps: it stays in this page only
  }
}

function kept(id) {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT + id)) ?? {};
  } catch {
    return {};
  }
}
