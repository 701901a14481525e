// Elements: made, found and filled.

/** An element with properties (`class` and `aria-…` are attributes) and children: texts or elements. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name === "className" ? "class" : name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** The element of that id. */
export const byId = (id) => document.getElementById(id);

/** Fill a list of choices; keeps what was chosen, where it is still there. */
export function choose(select, choices, kept = select.value) {
  select.replaceChildren(...choices.map(([value, text]) => h("option", { value, textContent: text })));
  if (choices.some(([value]) => value === kept)) select.value = kept;
}

/** Say what went wrong, beside what it concerns. */
export function complain(place, error) {
  place.replaceChildren(h("p", { className: "problem", role: "alert", textContent: error.message }));
}

/** Run what a form asks for; its button waits meanwhile. */
export function onSubmit(form, place, work) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button:not([type=button])");
    button.disabled = true;
    try {
      await work();
    } catch (error) {
      complain(place, error);
    } finally {
      button.disabled = false;
    }
  });
}
