// A generator's options as fields, made of the JSON Schema that the service tells of it.

import { h } from "./dom.js";
import { dataUrl } from "./search.js";

/** The fields of a schema's options; only what is changed is asked for.
 *
 * `defaults` are shown in empty fields. */
export class Options {
  constructor(place, schema, defaults) {
    this.fields = Object.entries(schema.properties ?? {}).map(([name, property]) => new Field(name, property, defaults[name]));
    place.replaceChildren(...(this.fields.length ? this.fields.map((field) => field.element) : [h("p", { className: "hint", textContent: "There are none." })]));
  }

  /** What is asked for: options by name, images as data URLs. Throws an Error that names a field. */
  async read() {
    const asked = {};
    for (const field of this.fields) {
      const value = await field.read();
      if (value !== undefined) asked[field.name] = value;
    }
    return asked;
  }

  /** Ask for these, and nothing else; images have to be chosen again. */
  write(options) {
    for (const field of this.fields) field.write(options[field.name]);
  }
}

class Field {
  constructor(name, property, given) {
    this.name = name;
    this.property = (property.anyOf ?? []).find((choice) => choice.type !== "null") ?? property;
    this.given = given;
    const id = `option-${name}`;
    this.input = this.#input(id, written(given));
    const hint = h("span", { className: "hint", id: `${id}-hint`, textContent: `${property.description ?? ""}${bounds(this.property)}` });
    this.input.setAttribute("aria-describedby", hint.id);
    this.element = h("div", {}, h("label", { htmlFor: id, textContent: name.replaceAll("_", " ") }), this.input, hint);
  }

  #input(id, shown) {
    const { type, format, enum: choices, minimum, maximum } = this.property;
    if (format === "image") return h("input", { id, type: "file", accept: "image/*" });
    if (choices || type === "boolean") {
      const values = choices ?? [true, false];
      return h("select", { id }, ...[["", `as it is (${shown})`], ...values.map((value) => [String(value), String(value)])].map(([value, textContent]) => h("option", { value, textContent })));
    }
    if (type === "number" || type === "integer") {
      return h("input", { id, type: "number", step: type === "integer" ? "1" : "any", min: minimum, max: maximum, placeholder: shown });
    }
    if (type === "string") return h("input", { id, placeholder: shown, autocomplete: "off" });
    return h("textarea", { id, rows: 2, placeholder: shown });
  }

  async read() {
    const { type, format, items } = this.property;
    if (format === "image") return this.input.files.length ? dataUrl(this.input.files[0]) : undefined;
    const text = this.input.value.trim();
    if (!text) return undefined;
    if (type === "boolean") return text === "true";
    if (type === "number" || type === "integer") return Number(text);
    if (type === "array") {
      const parts = text.split("\n").map((part) => part.trim()).filter(Boolean);
      return items?.type === "number" ? parts.map(Number) : parts;
    }
    if (type === "object") return this.#object(text);
    return text;
  }

  #object(text) {
    try {
      return JSON.parse(text);
    } catch {
      throw new Error(`${this.name}: expected JSON, such as {"demo-icons": 1}.`);
    }
  }

  write(value) {
    if (this.property.format === "image") return (this.input.value = "");
    const isChanged = value !== undefined && JSON.stringify(value) !== JSON.stringify(this.given);
    this.input.value = isChanged ? written(value) : "";
  }
}

/** A value as its field shows it. */
function written(value) {
  if (value === null || value === undefined) return "";
  if (Array.isArray(value)) return value.join("\n");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function bounds({ type, minimum, maximum, exclusiveMinimum, exclusiveMaximum }) {
  if (type === "array") return "; one on each line";
  if (type === "object") return "; as JSON";
  const low = minimum ?? exclusiveMinimum, high = maximum ?? exclusiveMaximum;
  if (low === undefined && high === undefined) return "";
  return `; ${low === undefined ? "" : `from ${low}${exclusiveMinimum === undefined ? "" : " (not itself)"}`}${high === undefined ? "" : ` to ${high}${exclusiveMaximum === undefined ? "" : " (not itself)"}`}`;
}
