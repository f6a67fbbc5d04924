// A queue's OpenAPI document → what the form, the code and the API page show. Pure.
import { sentenceCase } from "./ui.js";

const ENUM_FROM = 6; // as many words become a menu; fewer are shown at once

/** {input, output, others}: the types of an endpoint's document, each {name, fields, required, example}. */
export function types(document, id) {
  const schemas = document.components.schemas;
  const operation = document.paths[`/${id}`].post;
  const input = refName(operation.requestBody.content["application/json"].schema);
  const result = Object.entries(document.paths).find(([path, item]) => path.endsWith("/requests/{request_id}") && item.get);
  const output = refName(result[1].get.responses["200"].content["application/json"].schema);
  const others = Object.keys(schemas).filter((name) => ![input, output, "QueueStatus", "Error", "ErrorItem"].includes(name));
  const of = (name) => type(name, schemas);
  return { input: of(input), output: of(output), others: others.map(of) };
}

function refName(schema) {
  return schema?.$ref?.split("/").pop();
}

function type(name, schemas) {
  const schema = schemas[name];
  const order = schema["x-fal-order-properties"] ?? Object.keys(schema.properties ?? {});
  const required = schema.required ?? [];
  return {
    name,
    description: schema.description ?? "",
    endpoint: schema["x-impasto-endpoint"], // whose input it is, when it is not this endpoint's
    example: schema.examples?.[0] ?? schema.example,
    fields: order.map((key) => field(key, schema.properties[key], required.includes(key), schemas)),
  };
}

/** One property as the pages need it. `kind` chooses the control of the form, `shown` is the type in words. */
function field(name, property, required, schemas) {
  const choices = property.anyOf ?? property.allOf ?? property.oneOf ?? [property];
  const words = choices.flatMap((choice) => choice.enum ?? []);
  const reference = choices.map(refName).find(Boolean);
  const plain = choices.find((choice) => choice.type) ?? {};
  const base = {
    name,
    required,
    title: TITLES[name] ?? sentenceCase(property.title ?? name),
    description: property.description ?? "",
    default: property.default,
    example: property.examples?.[0] ?? property.example,
    minimum: plain.minimum,
    maximum: plain.maximum,
    maxLength: plain.maxLength,
    words,
    reference,
    apiOnly: API_ONLY.has(name),
    type: plain.type,
    items: plain.items && (refName(plain.items) ?? plain.items.type),
    maxItems: plain.maxItems,
    properties: reference && schemas[reference]?.properties ? type(reference, schemas).fields : undefined,
    rows: schemas[refName(plain.items)]?.properties ? type(refName(plain.items), schemas).fields : undefined,
  };
  return { ...base, kind: kindOf(base), shown: shownType(base) };
}

const TITLES = { num_inference_steps: "Inference steps", num_images: "Number of images" };
const API_ONLY = new Set(["safety_tolerance", "sync_mode"]);

function kindOf(field) {
  if (field.name === "seed") return "seed";
  if (/(^|_)prompt$/.test(field.name) && field.type === "string") return "prompt";
  if (field.properties && field.words.length) return "size";
  if (/mask_url$/.test(field.name)) return "mask";
  if (/image_url$/.test(field.name)) return "image";
  if (/image_urls$/.test(field.name)) return "images";
  if (field.rows) return "rows";
  if (field.words.length) return field.words.length >= ENUM_FROM ? "menu" : "choice";
  if (field.type === "integer" || field.type === "number") {
    const span = field.maximum - field.minimum;
    return Number.isFinite(span) && span <= 1000 ? "slider" : "number";
  }
  if (field.type === "boolean") return "boolean";
  if (field.type === "string") return "text";
  return "json";
}

/** The type as fal's pages write it: `ImageSize | Enum`, `list<Image>`, `integer`. */
function shownType(field) {
  if (field.reference && field.words.length) return `${field.reference} | Enum`;
  if (field.reference) return field.reference;
  if (field.words.length) return `${pascal(field.name)}Enum`;
  if (field.type === "array") return `list<${field.items ?? "any"}>`;
  if (field.type === "object") return pascal(field.name);
  return { number: "float" }[field.type] ?? field.type ?? "any";
}

function pascal(name) {
  return name.replace(/(^|_)([a-z])/g, (_, __, letter) => letter.toUpperCase());
}

const PICTURES = new Set(["image", "images", "mask"]);

/** `values` with the picture `url` in the first field that takes one; as they are when none does. */
export function withPicture(input, values, url) {
  const field = input.fields.find((each) => each.kind === "image" || each.kind === "images");
  return field ? { ...values, [field.name]: field.kind === "images" ? [url] : url } : values;
}

/** What the form starts with: examples for what is required, defaults for the rest. */
export function initialInput(input) {
  const values = {};
  for (const field of input.fields) {
    if (PICTURES.has(field.kind)) continue;
    if (field.kind === "prompt" && field.name === "prompt") values[field.name] = "";
    else if (field.default !== undefined) values[field.name] = field.default;
  }
  return values;
}

/** What stands in a box and is no value: `text` as typed, and why. It is neither sent nor kept; Run waits until it is mended. */
export class Unread {
  constructor(text, why) {
    Object.assign(this, { text, why });
  }

  toJSON() {} // left out
}

/** A seed as typed → its number, undefined for none, or an `Unread`: a browser's numbers are exact up to 2^53 only. */
export function readSeed(text) {
  if (!text) return undefined;
  if (!/^-?\d+$/.test(text)) return new Unread(text, "A seed is a whole number.");
  if (Number.isSafeInteger(Number(text))) return Number(text);
  return new Unread(text, `A browser's numbers are exact up to ${Number.MAX_SAFE_INTEGER} only: use a program for this seed.`);
}

const unread = (value) => value instanceof Unread || (typeof value === "object" && value !== null && Object.values(value).some(unread));

/** The fields with an `Unread` in them. */
export const unreadFields = (input, values) => input.fields.filter(({ name }) => unread(values[name]));

const blank = (value) => value === undefined || value === null || (typeof value === "string" && !value.trim()) || (Array.isArray(value) && !value.length);

/** The required fields with nothing in them: the form refuses these by itself, before anything is sent. */
export const emptyFields = (input, values) => input.fields.filter(({ name, required }) => required && blank(values[name]));

/** The input as it is sent: what is empty is left out, so that the server's defaults hold. */
export function sentInput(input, values) {
  const sent = {};
  for (const field of input.fields) {
    const value = values[field.name];
    if (value === undefined || value === null || Number.isNaN(value) || value instanceof Unread) continue;
    if (value === "" && !(field.required || field.name === "prompt")) continue;
    if (Array.isArray(value) && !value.length) continue;
    sent[field.name] = unread(value) ? JSON.parse(JSON.stringify(value)) : value;
  }
  return sent;
}

/** Only what differs from the defaults: what a person would write in a program. */
export function briefInput(input, values) {
  const sent = sentInput(input, values);
  return Object.fromEntries(
    Object.entries(sent).filter(([name, value]) => {
      const field = input.fields.find((each) => each.name === name);
      return field.required || JSON.stringify(value) !== JSON.stringify(field.default);
    }),
  );
}

/** What a program has to say, of the type's example: its words, its picture and all else that is required. */
export function exampleInput(input) {
  const example = input.example ?? { prompt: "a red apple" };
  const named = input.fields.filter(({ name, required }) => required || name === "prompt" || name === "image_url");
  return Object.fromEntries(named.map(({ name }) => [name, example[name]]).filter(([, value]) => value !== undefined));
}

export const PRESETS = {
  square_hd: [1024, 1024],
  square: [512, 512],
  portrait_4_3: [768, 1024],
  portrait_16_9: [576, 1024],
  landscape_4_3: [1024, 768],
  landscape_16_9: [1024, 576],
};

/** "landscape_4_3" → "Landscape 4:3" */
export function presetTitle(word) {
  const [first, ...rest] = word.split("_");
  const ratio = rest.length === 2 ? `${rest[0]}:${rest[1]}` : rest.join(" ").toUpperCase();
  return [first[0].toUpperCase() + first.slice(1), ratio].filter(Boolean).join(" ");
}
