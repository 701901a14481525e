// Search: the images of a collection, by what they show; and how images get into one.

import { call, fetched } from "./api.js";
import { curl, py, showCode } from "./code.js";
import { byId, choose, complain, h, onSubmit } from "./dom.js";
import { clear, filesOf } from "./images.js";

const TOP_K = 24;
const AT_ONCE = 8; // images in one request, so that there is progress to show

export function startSearch() {
  onSubmit(byId("search-form"), byId("search-answer"), search);
  onSubmit(byId("fill-form"), byId("fill-answer"), fill);
}

/** Ask again which collections there are. */
export async function refreshCollections(kept) {
  let collections;
  try {
    collections = (await call("GET", "/v1/collections")).data;
  } catch (error) {
    return complain(byId("search-answer"), error);
  }
  choose(byId("collection"), collections.map(({ name, count }) => [name, `${name} (${count})`]), kept);
  if (!collections.length) {
    byId("fill").open = true;
    byId("search-answer").replaceChildren(h("p", { textContent: "There is no collection yet. Add some images to a new one." }));
  }
}

async function search() {
  const name = byId("collection").value, text = byId("query").value.trim(), filter = byId("filter").value.trim();
  const [image] = filesOf("search-image");
  if (!name) throw new Error("There is no collection to search yet. Add some images to a new one.");
  if (!text && !image) throw new Error("Say what you look for, or choose an image like it.");
  const path = `/v1/collections/${encodeURIComponent(name)}/search`;
  const limits = filter ? { top_k: TOP_K, filter } : { top_k: TOP_K };
  let request, query;
  if (image && !text) {
    request = { path, form: [["image", image], ...Object.entries(limits)] };
    query = py(image);
  } else {
    const parts = image ? [{ text }, { image: await dataUrl(image) }] : text;
    request = { path, json: { query: parts, ...limits } };
    query = image ? `[${py(text)}, ${py(image)}]` : py(text);
  }
  const answer = await call("POST", path, request.json ?? formOf(request.form));
  byId("search-answer").replaceChildren(
    answer.data.length
      ? h("ul", { className: "tiles" }, ...answer.data.map(hit))
      : h("p", { textContent: "Nothing was found." }),
  );
  const narrowed = filter ? `, filter=${py(filter)}` : "";
  showCode("search-code", request, [
    `answer = client.collection(${py(name)}).search(${query}, top_k=${TOP_K}${narrowed})`,
    "for hit in answer.data:",
    "    print(hit.id, hit.similarity)",
  ]);
}

function hit({ id, similarity, thumbnail_url, source_url, metadata }) {
  const blank = () => h("div", { className: "blank" });
  const image = thumbnail_url ? h("img", { alt: id, onload: () => URL.revokeObjectURL(image.src) }) : blank();
  if (thumbnail_url) fetched(thumbnail_url).then((address) => (image.src = address), () => image.replaceWith(blank()));
  const name = source_url && /^https?:/.test(source_url) ? h("a", { href: source_url, rel: "noreferrer", textContent: id }) : id;
  const about = Object.keys(metadata).length ? JSON.stringify(metadata) : id;
  return h("li", { title: about }, image, h("span", { className: "name" }, name), h("span", { className: "hint", textContent: similarity.toFixed(3) }));
}

async function fill() {
  const name = byId("fill-name").value.trim(), files = filesOf("fill-images"), place = byId("fill-answer");
  if (!files.length) throw new Error("Choose some images first.");
  const path = `/v1/collections/${encodeURIComponent(name)}`;
  const isThere = [...byId("collection").options].some(({ value }) => value === name);
  if (!isThere) await call("PUT", path, { thumbnails: true });
  const bar = byId("fill-progress"), refused = [];
  bar.hidden = false;
  bar.max = files.length;
  let done = 0, added = 0;
  try {
    for (let first = 0; first < files.length; first += AT_ONCE) {
      const piece = files.slice(first, first + AT_ONCE);
      added += await add(path, piece, refused);
      bar.value = done += piece.length;
    }
  } finally {
    bar.hidden = true;
    bar.value = 0;
  }
  clear("fill-images");
  showFill(name, path, files.filter((file) => !refused.some((said) => said.startsWith(`${file.name}: `))).slice(0, AT_ONCE));
  place.replaceChildren(
    h("span", { textContent: `${added} of ${files.length} images were added to ${name}.` }),
    ...refused.map((said) => h("p", { className: "problem", textContent: said })),
  );
  await refreshCollections(name);
}

function showFill(name, path, files) {
  if (!files.length) return;
  const added = files.map((file) => `NewImage(${py(file)}, id=${py(file.name)})`).join(", ");
  showCode(
    "fill-code",
    { path: `${path}/images`, form: fieldsOf(files) },
    [`collection = client.collection(${py(name)})`, "collection.create(thumbnails=True)", `collection.add([${added}])`],
    { before: curl({ path, json: { thumbnails: true }, method: "PUT" }) },
  );
}

/** Adds images together; one by one if the service refuses some, so that the others are kept. */
async function add(path, files, refused) {
  const form = formOf(fieldsOf(files));
  try {
    return (await call("POST", `${path}/images`, form)).data.length;
  } catch (error) {
    if (![413, 415, 422].includes(error.status)) throw error;
    if (files.length === 1) {
      refused.push(`${files[0].name}: ${error.message.replace(/^Image 1: /, "")}`);
      return 0;
    }
  }
  let added = 0;
  for (const file of files) added += await add(path, [file], refused);
  return added;
}

const fieldsOf = (files) => files.flatMap((file) => [["image", file], ["id", file.name]]);

function formOf(fields) {
  const form = new FormData();
  for (const [name, value] of fields) form.append(name, value);
  return form;
}

/** A file as a data URL, as JSON takes images. */
export function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name} cannot be read.`));
    reader.readAsDataURL(file);
  });
}
