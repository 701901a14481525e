// The same thing without this page: each action as a curl command and as Python.

import { key } from "./api.js";
import { byId, h } from "./dom.js";

/** Show both under an answer.
 *
 * `request` is `{path, form}` with `form` a list of `[name, value]` (a File stands for itself), or `{path, json}`;
 * `python` is lines that use `client`; `before` and `then` are commands around the one of the request. */
export function showCode(id, request, python, { before = "", then = "" } = {}) {
  byId(id).replaceChildren(
    h(
      "details",
      {},
      h("summary", { textContent: "The same from a shell or a program" }),
      block("curl", [before, curl(request), then].filter(Boolean).join("\n")),
      block("Python", program(python)),
    ),
  );
}

/** A value as Python writes it. */
export function py(value) {
  if (value instanceof File) return `Path(${JSON.stringify(value.name)})`;
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(py).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${py(item)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}

/** A request as a command, as `showCode` takes it. */
export function curl({ path, form, json, method }) {
  const parts = [`curl ${method ? `-X ${method} ` : ""}${location.origin}${path}`];
  if (key.get()) parts.push('-H "Authorization: Bearer $CLIPCANVAS_API_KEY"');
  for (const [name, value] of form ?? []) {
    parts.push(value instanceof File ? `-F ${sh(`${name}=@"${value.name}"`)}` : `--form-string ${sh(`${name}=${value}`)}`);
  }
  if (json) parts.push("-H 'content-type: application/json'", `-d ${sh(JSON.stringify(json, shortened))}`);
  return parts.join(" \\\n  ");
}

function program(lines) {
  const text = lines.join("\n");
  const imports = [`from clipcanvas import Client${text.includes("NewImage(") ? ", NewImage" : ""}`];
  if (text.includes("Path(")) imports.unshift("from pathlib import Path\n");
  if (key.get()) imports.unshift("import os");
  const arguments_ = key.get() ? ', os.environ["CLIPCANVAS_API_KEY"]' : "";
  const body = lines.map((line) => `    ${line}`).join("\n");
  return `${imports.join("\n")}\n\nwith Client("${location.origin}"${arguments_}) as client:\n${body}`;
}

function block(name, text) {
  const copy = h("button", { type: "button", textContent: "Copy", "aria-label": `Copy the ${name} code` });
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    copy.textContent = "Copied";
  });
  return h("div", {}, h("h4", { textContent: name }), h("pre", { tabIndex: 0 }, h("code", { textContent: text })), copy);
}

const sh = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** Images in a body are shown by their beginnings. */
const shortened = (name, value) => (typeof value === "string" && value.startsWith("data:") ? `${value.slice(0, 40)}…` : value);
