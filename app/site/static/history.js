// History: the caller's jobs, newest first, as small images.

import { call, fetched } from "./api.js";
import { byId, complain, h } from "./dom.js";
import { promptOf } from "./live.js";

const PAGE = 12;
let last = null;

export function startHistory() {
  byId("older").addEventListener("click", () => show(last).catch((error) => complain(byId("drawing"), error)));
}

/** Show the newest page again. */
export async function refreshHistory() {
  await show(null).catch(() => {}); // what is being done is told where it is done
}

async function show(after) {
  const answer = await call("GET", `/v1/jobs?limit=${PAGE}${after ? `&after=${after}` : ""}`);
  const jobs = answer.data.filter(({ type }) => type === "draw").map(tile);
  if (after) byId("history").append(...jobs);
  else byId("history").replaceChildren(...jobs);
  last = answer.last_id;
  byId("older").hidden = !answer.has_more;
}

function tile(job) {
  const small = job.outputs.find(({ kind }) => kind === "thumbnail") ?? job.outputs.find(({ kind }) => kind === "image");
  const path = small?.url ?? job.progress?.preview;
  const blank = () => h("div", { className: "blank" });
  const image = path ? h("img", { alt: "", onload: () => URL.revokeObjectURL(image.src) }) : blank();
  if (path) fetched(path).then((address) => (image.src = address), () => image.replaceWith(blank()));
  const text = promptOf(job);
  return h(
    "li",
    {},
    h(
      "a",
      { href: `#draw/${job.id}`, title: text },
      image,
      h("span", { className: "name", textContent: text }),
      h("span", { className: "hint", textContent: job.status }),
    ),
  );
}
