// The page: which room is open, the key, and what every room needs to know of the service.

import { call, key } from "./api.js";
import { byId, choose } from "./dom.js";
import { refreshGenerators, showJob, startDraw } from "./draw.js";
import { refreshHistory, startHistory } from "./history.js";
import { startLook } from "./look.js";
import { startPickers } from "./images.js";
import { refreshCollections, startSearch } from "./search.js";

const ROOMS = ["look", "search", "draw"];
const LOADING_MS = 2000, QUEUE_MS = 10000;

startPickers();
startLook();
startSearch();
startDraw();
startHistory();
document.addEventListener("key-wanted", () => (byId("key-form").hidden = false));
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(byId("key").value.trim());
  byId("key-form").hidden = true;
  start();
});
document.addEventListener("queue-moved", showQueue);
window.addEventListener("hashchange", open);
start();
watchQueue();

async function start() {
  await refreshModels();
  await open();
}

/** Open the room that the address names; `#draw/<job>` shows that job. */
async function open() {
  const [room, job] = location.hash.slice(1).split("/");
  const opened = ROOMS.includes(room) ? room : "look";
  for (const name of ROOMS) {
    byId(name).hidden = name !== opened;
    const link = document.querySelector(`nav a[href="#${name}"]`);
    if (name === opened) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (opened === "search") await refreshCollections();
  if (opened === "draw") {
    await Promise.all([refreshGenerators(), refreshHistory()]);
    if (/^job_\w+$/.test(job ?? "")) await showJob(job);
  }
}

/** The CLIPs that are served; asked again while one is loading. */
async function refreshModels() {
  const trouble = byId("trouble");
  try {
    const models = (await call("GET", "/v1/models")).data;
    trouble.hidden = true;
    for (const select of document.querySelectorAll(".models")) {
      choose(select, models.map(({ id, status }) => [id, status === "ready" ? id : `${id} (${status})`]));
    }
    if (models.some(({ status }) => status === "loading")) setTimeout(refreshModels, LOADING_MS);
  } catch (error) {
    trouble.textContent = error.message;
    trouble.hidden = false;
    if (error.status === 0) setTimeout(refreshModels, LOADING_MS);
  }
}

async function showQueue() {
  const said = await call("GET", "/v1/queue").catch(() => null), count = said?.workers.length;
  byId("queue").textContent = said ? `${said.running} running, ${said.queued} waiting, ${count} ${count === 1 ? "worker" : "workers"}` : "";
}

async function watchQueue() {
  for (;;) {
    if (!document.hidden) await showQueue();
    await new Promise((resolve) => setTimeout(resolve, QUEUE_MS));
  }
}
