// What stands in the forms: one signal of values an endpoint, kept for the session, filled from elsewhere on demand.
import { signal } from "@preact/signals-core";
import { initialInput } from "./schema.js";
import { go, say } from "./ui.js";

const KEPT = "impasto.input.";
const forms = new Map(); // endpoint id → signal of the form's values

export function valuesOf(id, input) {
  if (!forms.has(id)) {
    const values = signal({ ...initialInput(input), ...kept(id) });
    values.subscribe((now) => keep(id, now));
    forms.set(id, values);
  }
  return forms.get(id);
}

/** Open the form of `id` with `input` in it. */
export function open(id, input) {
  keep(id, input);
  forms.delete(id);
  go(`/models/${id}`);
}

/** "Use as input": the first endpoint that takes a picture, of the same family if there is one. */
export function openWithPicture(models, id, url) {
  const takes = (models ?? []).filter((each) => each.metadata.category === "image-to-image").map((each) => each.endpoint_id);
  const family = id.split("/").slice(0, 2).join("/");
  const target = takes.find((each) => each === id) ?? takes.find((each) => each.startsWith(`${family}/`)) ?? takes[0];
  if (target) open(target, { image_url: url });
  else say("No endpoint of this server takes a picture.");
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
