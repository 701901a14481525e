// Images of the user: dropped, pasted or picked, shown small, and removed again.

import { h } from "./dom.js";

const pickers = new Map();

/** Makes every `<div data-picker="id">` of the page a picker. */
export function startPickers() {
  for (const place of document.querySelectorAll("[data-picker]")) pickers.set(place.dataset.picker, new Picker(place));
  document.addEventListener("paste", (event) => {
    const files = images(event.clipboardData.files);
    const shown = [...pickers.values()].find((picker) => picker.place.checkVisibility());
    if (files.length && shown) shown.add(files);
  });
  // an image dropped beside a picker would replace the page
  for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
}

/** The files in a picker. */
export const filesOf = (id) => pickers.get(id).files;

/** Empty a picker. */
export const clear = (id) => pickers.get(id).set([]);

class Picker {
  constructor(place) {
    this.place = place;
    this.many = "many" in place.dataset;
    this.files = [];
    this.input = h("input", { type: "file", accept: "image/*", multiple: this.many, id: place.dataset.picker });
    const what = place.dataset.label ?? (this.many ? "Images" : "An image");
    const drop = h("label", { className: "drop", htmlFor: this.input.id }, `${what}: drop, paste or pick`, this.input);
    this.list = h("ul", { className: "picked" });
    place.append(drop, this.list);
    this.input.addEventListener("change", () => {
      this.add(images(this.input.files));
      this.input.value = "";
    });
    drop.addEventListener("dragover", () => drop.classList.add("over"));
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => {
      drop.classList.remove("over");
      this.add(images(event.dataTransfer.files));
    });
  }

  add(files) {
    this.set(this.many ? [...this.files, ...files] : files.slice(0, 1));
  }

  set(files) {
    this.files = files;
    for (const image of this.list.querySelectorAll("img")) URL.revokeObjectURL(image.src);
    this.list.replaceChildren(
      ...files.map((file) =>
        h(
          "li",
          {},
          h("img", { src: URL.createObjectURL(file), alt: file.name }),
          h("button", {
            type: "button",
            textContent: "×",
            "aria-label": `Remove ${file.name}`,
            onclick: () => this.set(this.files.filter((kept) => kept !== file)),
          }),
        ),
      ),
    );
  }
}

/** The files that are images; the service checks their formats. */
function images(files) {
  return [...files].filter((file) => file.type.startsWith("image/") || file.type === "");
}
