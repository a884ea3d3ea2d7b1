// The chat page: one conversation for each mode, side by side, each answer under the chain that led to it.

import { stream } from "/pages/stream.js";

const MODES = [
  { suffix: "", name: "Pair", about: "The reasoner thinks, the summary agent judges it and answers." },
  { suffix: "/reasoner", name: "Reasoner alone", about: "The chain's own answer counts." },
  { suffix: "/summarizer", name: "Direct answer", about: "The summary agent answers without a chain." },
];

const find = (id) => document.getElementById(id);
const turns = find("turns"), question = find("question"), pictures = find("pictures");
let base = "insight-v"; // the pair's name as a model
let waiting = []; // data URLs of pictures that go with the next question
const histories = new Map(MODES.map((mode) => [mode.suffix, []]));
let running = null; // aborts the requests under way

const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};

function showModes() {
  for (const mode of MODES) {
    const label = make("label"), box = make("input");
    label.title = mode.about;
    box.type = "checkbox";
    box.value = mode.suffix;
    box.checked = mode.suffix === "";
    label.append(box, mode.name);
    find("modes").append(label);
  }
}

const chosen = () => MODES.filter((mode) => [...find("modes").querySelectorAll("input")].some((box) => box.checked && box.value === mode.suffix));

async function addPictures(files) {
  for (const file of files) {
    if (!["image/png", "image/jpeg", "image/webp"].includes(file.type)) continue;
    const url = await new Promise((resolve) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.readAsDataURL(file);
    });
    waiting.push(url);
  }
  showPictures();
}

function showPictures() {
  pictures.replaceChildren(
    ...waiting.map((url, at) => {
      const button = make("button", "picture");
      const image = make("img");
      image.src = url;
      image.alt = `Picture ${at + 1}`;
      button.type = "button";
      button.title = "Remove";
      button.append(image);
      button.onclick = () => {
        waiting.splice(at, 1);
        showPictures();
      };
      return button;
    }),
  );
}

// A chain's text as its steps: [title, text] each, as far as it is written.
export function steps(text) {
  const found = [];
  for (const line of text.split("\n")) {
    if (line.startsWith("### ")) found.push([line.slice(4), ""]);
    else if (found.length) found[found.length - 1][1] += line + "\n";
    else if (line.trim()) found.push(["", line + "\n"]);
  }
  return found.map(([title, body]) => [title, body.trim()]);
}

class Column {
  constructor(mode) {
    this.mode = mode;
    this.root = make("section", "column");
    this.panel = make("details", "chain");
    this.summary = make("summary", "", "Thinking");
    this.list = make("ol");
    this.answer = make("p", "answer");
    this.note = make("p", "note");
    this.panel.append(this.summary, this.list);
    this.panel.hidden = true;
    this.panel.open = true;
    this.root.append(make("h2", "", mode.name), this.panel, this.answer, this.note);
    this.reasoning = this.content = "";
  }

  reason(text) {
    this.reasoning += text;
    this.panel.hidden = false;
    const found = steps(this.reasoning);
    // Only the last step grows; those before it stay as they are, and selected text stays selected.
    while (this.list.children.length < found.length) {
      const item = make("li");
      item.append(make("strong"), make("span"));
      this.list.append(item);
    }
    for (let at = Math.max(0, found.length - 2); at < found.length; at++) {
      const [title, body] = this.list.children[at].children;
      title.textContent = found[at][0];
      body.textContent = found[at][1];
    }
  }

  say(text) {
    if (!this.content && this.reasoning) this.panel.open = false;
    this.content += text;
    this.answer.textContent = this.content;
  }

  end(usage, seconds, finish) {
    const thought = usage ? usage.completion_tokens_details.reasoning_tokens : 0;
    this.summary.textContent = `Thought in ${this.list.children.length} steps, ${thought} tokens`;
    this.note.textContent = `${seconds.toFixed(1)} s, ${usage ? usage.total_tokens : "?"} tokens${finish === "length" ? ", cut off at its budget" : ""}`;
    if (!this.content) this.answer.textContent = "No answer: the chain ended without one.";
  }

  fail(message) {
    this.panel.hidden = !this.reasoning;
    this.note.className = "note error";
    this.note.textContent = message;
  }
}

async function answer(column, said, signal) {
  const history = histories.get(column.mode.suffix);
  const begun = performance.now();
  const temperature = Number(find("temperature").value) || 0, budget = Number(find("budget").value);
  const request = { model: base + column.mode.suffix, messages: [...history, said], temperature, ...(budget ? { reasoning: { max_tokens: budget } } : {}) };
  let usage = null, finish = null;
  try {
    for await (const event of stream(request, signal)) {
      usage = event.usage ?? usage;
      const choice = event.choices[0];
      if (!choice) continue;
      finish = choice.finish_reason ?? finish;
      if (choice.delta.reasoning ?? choice.delta.reasoning_content) column.reason(choice.delta.reasoning ?? choice.delta.reasoning_content);
      if (choice.delta.content) column.say(choice.delta.content);
    }
    column.end(usage, (performance.now() - begun) / 1000, finish);
    history.push(said, { role: "assistant", content: column.content });
  } catch (error) {
    column.fail(error.name === "AbortError" ? "Stopped." : error.message);
  }
}

async function ask() {
  const text = question.value.trim(), modes = chosen();
  if (!text || running || !modes.length) return;
  const said = { role: "user", content: [...waiting.map((url) => ({ type: "image_url", image_url: { url } })), { type: "text", text }] };
  const turn = make("article"), asked = make("div", "asked"), columns = make("div", "columns");
  for (const url of waiting) {
    const image = make("img");
    image.src = url;
    image.alt = "";
    asked.append(image);
  }
  asked.append(make("p", "", text));
  turn.append(asked, columns);
  find("hint").hidden = true;
  turns.append(turn);
  waiting = [];
  showPictures();
  question.value = "";
  running = new AbortController();
  find("stop").hidden = false;
  find("send").disabled = true;
  const each = modes.map((mode) => new Column(mode));
  columns.append(...each.map((column) => column.root));
  turn.scrollIntoView({ block: "end" });
  await Promise.all(each.map((column) => answer(column, said, running.signal)));
  running = null;
  find("stop").hidden = true;
  find("send").disabled = false;
  turn.scrollIntoView({ block: "end" });
  question.focus();
}

find("ask").onsubmit = (event) => {
  event.preventDefault();
  ask();
};
question.onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    ask();
  }
};
find("stop").onclick = () => running?.abort();
find("fresh").onclick = () => {
  running?.abort();
  for (const history of histories.values()) history.length = 0;
  turns.replaceChildren(find("hint"));
  find("hint").hidden = false;
};
find("file").onchange = (event) => {
  addPictures(event.target.files);
  event.target.value = "";
};
document.ondragover = (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
};
document.ondragleave = (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
};
document.ondrop = (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  addPictures(event.dataTransfer.files);
};
document.onpaste = (event) => {
  if (event.clipboardData.files.length) addPictures(event.clipboardData.files);
};

showModes();
const listed = await (await fetch("/v1/models")).json();
base = listed.data[0].id;
