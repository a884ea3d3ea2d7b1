// Elements, and questions to the server.

export const find = (id) => document.getElementById(id);

// An element of a class, with children; texts are texts, and nothing is left out.
export const make = (tag, className, ...children) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.flat().filter((child) => child !== null && child !== undefined).map((child) => (child instanceof Node ? child : String(child))));
  return element;
};

export const button = (text, pressed, className = "") => {
  const element = make("button", className, text);
  element.type = "button";
  element.onclick = guarded(pressed);
  return element;
};

export const given = (query) => Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);

async function body(response) {
  const found = await response.json().catch(() => null); // what stands between may answer with a page of its own
  if (!response.ok || !found) throw new Error(found?.error?.message ?? `The server answered ${response.status} with nothing that can be shown.`);
  find("alert").hidden = true;
  return found;
}

export const get = async (path, query = {}) => body(await fetch(`/data/${path}?${new URLSearchParams(given(query))}`));
export const post = async (path, value) => body(await fetch(`/data/${path}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(value) }));

// The same, with what fails told in the one line for it, until the server answers again.
export const guarded = (work) => async (...told) => {
  try {
    return await work(...told);
  } catch (error) {
    const line = find("alert");
    line.textContent = error instanceof TypeError && /fetch|load/i.test(error.message) ? "The server does not answer." : error.message;
    line.hidden = false;
  }
};

// Scroll a pane, and nothing around it, until the element is seen.
export function reveal(pane, element) {
  const [outer, inner] = [pane.getBoundingClientRect(), element.getBoundingClientRect()];
  if (inner.top < outer.top) pane.scrollTop -= outer.top - inner.top;
  else if (inner.bottom > outer.bottom) pane.scrollTop += Math.min(inner.bottom - outer.bottom, inner.top - outer.top);
}
