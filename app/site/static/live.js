// One job, live: its image as it forms, how far it is, its loss, and what can be done with it.

import { call, events, fetched } from "./api.js";
import { byId, complain, h } from "./dom.js";

const STATES = {
  queued: "Waiting for a worker",
  running: "Drawing",
  succeeded: "Done",
  failed: "It failed",
  canceled: "It was canceled",
  expired: "No worker had time for it",
};
const SVG = "http://www.w3.org/2000/svg";

/** Shows one job at a time.
 *
 * `redraw(job, seed)` is called to draw again with a seed, `ended()` when a job is final. */
export class Live {
  constructor({ redraw, ended }) {
    this.redraw = redraw;
    this.ended = ended;
    this.stopped = new AbortController();
  }

  /** Show a job and go on with it until it ends, or another is shown. */
  async follow(id) {
    this.stopped.abort();
    const stopped = (this.stopped = new AbortController());
    const place = byId("drawing");
    place.replaceChildren();
    try {
      this.#begin(place, await call("GET", `/v1/jobs/${id}`));
      if (this.job.finished_at) return await this.#finish(this.job, stopped);
      for await (const event of events(`/v1/jobs/${id}/events`, stopped.signal)) await this.#take(event, stopped);
      // it ended while nobody listened
      if (!stopped.signal.aborted && !this.job.finished_at) await this.#finish(await call("GET", `/v1/jobs/${id}`), stopped);
    } catch (error) {
      if (!stopped.signal.aborted) complain(place, error);
    }
  }

  #begin(place, job) {
    this.job = job;
    this.losses = [];
    this.state = h("p", { "aria-live": "polite" });
    this.bar = h("progress", { max: 1, value: 0, "aria-label": "Progress of the drawing" });
    this.images = h("div", { className: "drawn" });
    this.curve = h("div");
    this.cancel = h("button", { type: "button", textContent: "Cancel", onclick: () => this.#cancel() });
    this.buttons = h("div", { className: "buttons" }, this.cancel);
    place.replaceChildren(h("div", { className: "card" }, this.images, this.state, this.bar, this.curve, this.buttons));
    this.#say(job.status);
    if (job.progress) this.#progress(job.progress);
  }

  async #take({ type, data }, stopped) {
    if (type === "lost") this.state.textContent = "The connection was lost. Trying again…";
    else if (type === "status") this.#say(data.status, data.attempt);
    else if (type === "progress") this.#progress(data);
    else if (type === "preview") await this.#preview(data.url, stopped);
    else if (type === "completed") await this.#finish(data, stopped);
  }

  #say(status, attempt = 1) {
    document.dispatchEvent(new Event("queue-moved"));
    this.state.textContent = STATES[status] + (status === "running" && attempt > 1 ? ", taken up again after a worker was lost" : "");
  }

  #progress({ step, steps, fraction, loss, eta_s, preview }) {
    this.bar.value = fraction;
    const left = eta_s ? `, about ${Math.ceil(eta_s)} s left` : "";
    this.state.textContent = `Step ${step} of ${steps}${left}`;
    if (loss !== null && loss !== undefined && step > (this.losses.at(-1)?.[0] ?? 0)) this.losses.push([step, loss]);
    if (this.losses.length > 1) this.curve.replaceChildren(curve(this.losses));
    // of a job that was there before this page
    if (preview && !this.images.children.length) this.#preview(preview, this.stopped).catch(() => {});
  }

  async #preview(path, stopped) {
    // a preview that has been replaced meanwhile is no loss
    const address = await fetched(path).catch(() => null);
    if (!address || stopped.signal.aborted) return;
    const [shown] = this.images.querySelectorAll("img");
    if (shown) {
      URL.revokeObjectURL(shown.src);
      shown.src = address;
    } else {
      this.images.replaceChildren(h("img", { src: address, alt: `The drawing so far: ${promptOf(this.job)}` }));
    }
  }

  async #finish(job, stopped) {
    this.job = job;
    document.dispatchEvent(new Event("queue-moved"));
    const shown = job.outputs.filter(({ kind }) => ["image", "contact_sheet", "video", "svg"].includes(kind));
    const figures = await Promise.all(shown.map((output) => this.#figure(output)));
    if (stopped.signal.aborted) return;
    if (figures.length) this.images.replaceChildren(...figures);
    this.bar.hidden = true;
    this.cancel.remove();
    const ran = (Date.parse(job.finished_at) - Date.parse(job.started_at ?? job.finished_at)) / 1000;
    this.state.textContent = STATES[job.status] + (job.status === "succeeded" ? ` in ${ran.toFixed(1)} s.` : ".") + (job.error ? ` Why: ${job.error.detail}.` : "");
    this.buttons.append(h("button", { type: "button", textContent: "Forget it", onclick: () => this.#forget() }));
    this.ended();
  }

  async #figure({ kind, url, name, seed, clip_score, content_type }) {
    const address = await fetched(url);
    const isFilm = kind === "video" && content_type === "video/mp4";
    const about = kind === "image" ? `Seed ${seed}${clip_score === null ? "" : `, score ${clip_score.toFixed(3)}`}` : kind.replace("_", " ");
    return h(
      "figure",
      {},
      isFilm
        ? h("video", { src: address, controls: true, loop: true, muted: true, "aria-label": `Film of ${promptOf(this.job)}` })
        : h("img", { src: address, alt: kind === "image" ? promptOf(this.job) : `${about} of ${promptOf(this.job)}` }),
      h("figcaption", { textContent: about }),
      h(
        "div",
        { className: "buttons" },
        h("a", { className: "button", href: address, download: name, textContent: "Download" }),
        kind === "image" ? h("button", { type: "button", textContent: "Draw again with this seed", onclick: () => this.redraw(this.job, seed) }) : null,
      ),
    );
  }

  async #cancel() {
    this.cancel.disabled = true;
    this.state.textContent = "Stopping…";
    try {
      await call("POST", `/v1/jobs/${this.job.id}/cancel`);
    } catch (error) {
      this.cancel.disabled = false;
      this.state.textContent = error.message;
    }
  }

  async #forget() {
    try {
      await call("DELETE", `/v1/jobs/${this.job.id}`);
    } catch (error) {
      this.state.textContent = error.message;
      return;
    }
    location.hash = "#draw";
    byId("drawing").replaceChildren();
    this.ended();
  }
}

/** What a job draws, in words. */
export const promptOf = (job) => job.request.prompts?.map(({ text }) => text).filter(Boolean).join(", ") || "an image";

/** Losses as a line: `[[step, loss], …]`. */
function curve(losses) {
  const values = losses.map(([, loss]) => loss), [low, high] = [Math.min(...values), Math.max(...values)];
  const first = losses[0][0], length = losses.at(-1)[0] - first || 1, height = high - low || 1;
  const svg = document.createElementNS(SVG, "svg"), points = document.createElementNS(SVG, "polyline");
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "curve");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `Loss, from ${values[0].toFixed(3)} to ${values.at(-1).toFixed(3)}`);
  points.setAttribute("points", losses.map(([step, loss]) => `${(100 * (step - first)) / length},${98 - (96 * (loss - low)) / height}`).join(" "));
  svg.append(points);
  return h("figure", { className: "loss" }, svg, h("figcaption", { textContent: `Loss ${values.at(-1).toFixed(3)} (highest ${high.toFixed(3)}, lowest ${low.toFixed(3)})` }));
}
