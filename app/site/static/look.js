// Look: which labels fit which images.

import { call } from "./api.js";
import { py, showCode } from "./code.js";
import { byId, h, onSubmit } from "./dom.js";
import { filesOf } from "./images.js";

const SHOWN = 12;

export function startLook() {
  onSubmit(byId("look-form"), byId("look-answer"), classify);
}

async function classify() {
  const files = filesOf("look-images"), place = byId("look-answer");
  if (!files.length) throw new Error("Choose an image first: drop one, paste one, or pick one.");
  const labels = [...new Set(byId("labels").value.split("\n").map((label) => label.trim()).filter(Boolean))];
  if (!labels.length) throw new Error("Write at least one label.");
  const fields = [
    ...files.map((file) => ["image", file]),
    ...labels.map((label) => ["labels", label]),
    ["top_k", Math.min(SHOWN, labels.length)],
    ["model", byId("look-model").value],
  ];
  const form = new FormData();
  for (const [name, value] of fields) form.append(name, value);
  place.replaceChildren(h("p", { textContent: "Looking…" }));
  const answer = await call("POST", "/v1/classify", form);
  place.replaceChildren(...answer.data.map((row) => shown(files[row.index], row.labels)));
  const several = files.length > 1;
  showCode("look-code", { path: "/v1/classify", form: fields }, [
    `answer = client.classify(${several ? py(files) : py(files[0])}, ${py(labels)}, model=${py(answer.model)})`,
    several ? "for row in answer.data:" : "print(answer.best)",
    ...(several ? ["    print(row.labels[0])"] : []),
  ]);
}

function shown(file, labels) {
  const bars = labels.map(({ label, probability }) => {
    const row = h("li", {}, h("span", { textContent: label }), h("span", { textContent: percent(probability) }));
    row.style.setProperty("--share", `${100 * probability}%`);
    return row;
  });
  const image = h("img", { src: URL.createObjectURL(file), alt: file.name, onload: (event) => URL.revokeObjectURL(event.target.src) });
  return h("article", { className: "card looked" }, image, h("ul", { className: "bars", "aria-label": `Labels of ${file.name}` }, ...bars));
}

const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
