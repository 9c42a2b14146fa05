// Helpers for elements. Text enters the document as text nodes only, never as markup.

export const $ = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function show(node, visible) {
  node.hidden = !visible;
}

// Fill a select element; keep the chosen option if it still exists.
export function fillSelect(select, options) {
  const chosen = select.value;
  select.replaceChildren(...options.map(({ value, text }) => element("option", { value }, text)));
  if (options.some(({ value }) => value === chosen)) select.value = chosen;
}

// Write a text, such as an alert, into a node; hide the node if the text is empty.
export function write(node, text) {
  node.textContent = text;
  show(node, text !== "");
}
