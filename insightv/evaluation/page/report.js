// Shows one example at a time. Everything that a model wrote enters the page through textContent.
"use strict";

const examples = JSON.parse(document.getElementById("examples-data").textContent);
const filters = ["kind", "outcome", "family"];
const selects = Object.fromEntries(filters.map((name) => [name, document.getElementById(`filter-${name}`)]));
const card = document.getElementById("card");
const place = document.getElementById("place");
const [previous, next] = ["previous", "next"].map((name) => document.getElementById(name));
let shown = [];
let current = 0;

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function put(parent, ...children) {
  parent.append(...children.filter(Boolean));
  return parent;
}

function judgement(correct) {
  if (correct === null) return make("span", "tag", "not judged");
  return make("span", correct ? "right" : "wrong", correct ? "✓ right" : "✗ wrong");
}

function renderOutput(output) {
  const details = make("details", "output");
  put(details, put(
    make("summary"),
    make("span", "title", output.title),
    make("b", "", output.answer || "no answer"),
    judgement(output.correct),
    output.score !== null && make("span", "tag", `score ${output.score}`),
    output.chain_answer && output.chain_answer !== output.answer && make("span", "tag", `chain said ${output.chain_answer}`),
  ));
  const body = make("div", "body");
  if (output.steps.length) {
    put(body, put(make("ol"), ...output.steps.map(([title, text]) => put(make("li"), make("b", "", title), make("pre", "", text)))));
  }
  put(
    body,
    output.conclusion && put(make("p"), make("b", "", "Conclusion "), make("span", "", output.conclusion)),
    output.text && make("pre", "", output.text),
    ...output.notes.map((note) => make("p", "quiet", note)),
  );
  if (!body.childNodes.length) put(body, make("p", "quiet", "Answered directly, without a chain."));
  return put(details, body);
}

function renderImage(url) {
  const image = make("img");
  image.alt = "the question's image";
  image.addEventListener("load", () => image.classList.toggle("large", image.naturalWidth > 256));
  image.src = url;
  return image;
}

function renderExample(example) {
  const options = make("ol", "options");
  example.options.forEach((option) => put(options, make("li", "", option)));
  const side = put(make("aside"), ...example.images.map(renderImage), make("p", "quiet", `${example.kind} · ${example.family} · ${example.outcome}`));
  const main = put(make("div"), make("h3", "", example.question), example.options.length && options, make("p", "quiet", `Accepted: ${example.truth.join(" or ")}`));
  return [side, put(main, ...example.outputs.map(renderOutput))];
}

function show(position) {
  current = Math.max(0, Math.min(position, shown.length - 1));
  card.replaceChildren(...(shown.length ? renderExample(shown[current]) : [make("p", "quiet", "No example fits these filters.")]));
  place.textContent = shown.length ? `${current + 1} of ${shown.length}` : "0 of 0";
  previous.disabled = current <= 0;
  next.disabled = current >= shown.length - 1;
}

function filter() {
  shown = examples.filter((example) => filters.every((name) => !selects[name].value || example[name] === selects[name].value));
  show(0);
}

for (const name of filters) {
  put(selects[name], ...[...new Set(examples.map((example) => example[name]))].sort().map((value) => {
    const option = make("option", "", value);
    option.value = value;
    return option;
  }));
  selects[name].addEventListener("change", filter);
}
previous.addEventListener("click", () => show(current - 1));
next.addEventListener("click", () => show(current + 1));
filter();
