// The viewer: filters, a list of chains or pairs, and all that belongs to the problem that is chosen. Its whole state is the link.

import { differing } from "/pages/diff.js";
import { bars, lines } from "/pages/plots.js";

const find = (id) => document.getElementById(id);
const make = (tag, className, ...children) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== null && child !== undefined).map((child) => (child instanceof Node ? child : String(child))));
  return element;
};
const get = async (path, query = {}) => {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const response = await fetch(`/data/${path}${given.length ? `?${new URLSearchParams(given)}` : ""}`);
  const body = await response.json();
  if (!response.ok) throw new Error(body.error.message);
  return body;
};

const FILTERS = ["stage", "family", "verdict", "low", "high", "defect", "doubt", "entered", "words", "sort"];
const VERDICTS = { right: "✓", wrong: "✗", open: "?", "": "·" };
let facets = null;
let state = {};
let page = 0; // counts requests, so that a late answer to an old question is not shown

const read = () => {
  const query = new URLSearchParams(location.search);
  state = Object.fromEntries(query.entries());
  state.tab ||= "chains";
  state.stage ||= Object.keys(facets.stages)[0] ?? "";
};

function go(changes, keep = false) {
  const next = { ...state, ...changes };
  if (!keep) delete next.problem;
  const query = new URLSearchParams(Object.entries(next).filter(([, value]) => value !== "" && value !== null && value !== undefined));
  history.pushState(null, "", `/data?${query}`);
  read();
  show(keep);
}

function select(name, label, options) {
  const box = make("select");
  box.name = name;
  for (const [value, text] of options) {
    const option = make("option", "", text);
    option.value = value;
    option.selected = (state[name] ?? "") === value;
    box.append(option);
  }
  box.onchange = () => go({ [name]: box.value });
  return make("label", "", label, box);
}

function number(name, label) {
  const box = make("input");
  Object.assign(box, { type: "number", name, min: 0, max: 100, value: state[name] ?? "" });
  box.onchange = () => go({ [name]: box.value });
  return make("label", "half", label, box);
}

const counted = (counts) => [["", "any"], ...Object.entries(counts ?? {}).filter(([name]) => name).map(([name, count]) => [name, `${name} (${count.toLocaleString()})`])];

function showFilters() {
  const stage = facets.stages[state.stage] ?? {};
  const search = make("input");
  Object.assign(search, { type: "search", name: "words", id: "words", value: state.words ?? "", placeholder: 'words, or "a phrase"' });
  search.onchange = () => go({ words: search.value });
  const link = make("a", "button", "Export selection");
  link.href = `/data/export?${new URLSearchParams(Object.entries(state).filter(([name, value]) => FILTERS.includes(name) && value))}`;
  const clear = make("button", "", "Clear");
  clear.type = "button";
  clear.onclick = () => go(Object.fromEntries(FILTERS.filter((name) => name !== "stage").map((name) => [name, ""])));
  const sorts = [["", "in order"], ["score", "best score first"], ["score-up", "worst score first"], ["words", "longest first"], ["words-up", "shortest first"]];
  if (state.tab === "pairs") return find("filters").replaceChildren(make("p", "note", "The margin is the chosen chain's score minus the rejected one's, where both are right. Steps that the other has not are marked."));
  const stages = select("stage", "Stage", Object.entries(facets.stages).map(([name, { chains }]) => [name, `${name} (${chains.toLocaleString()})`]));
  if (state.tab === "plots") return find("filters").replaceChildren(stages);
  find("filters").replaceChildren(
    make("label", "", "Search", search),
    stages,
    select("family", "Family", counted(stage.family)),
    select("verdict", "Verdict", counted(stage.verdict)),
    number("low", "Score from"),
    number("high", "to"),
    select("defect", "Defect", counted(stage.defect)),
    select("doubt", "Seen differently", [["", "all"], ["any", "by rules or scorer"], ["rule", "rules against the judge"], ["score", "right, but scored low"]]),
    select("entered", "Entered", [["", "anything"], ...Object.entries(facets.sets).map(([name, reasons]) => [name, `${name} (${(reasons.entered ?? 0).toLocaleString()})`])]),
    select("sort", "Sort", sorts),
    make("p", "row", clear, link),
  );
}

// Lists

async function showChains(after = "") {
  const mine = ++page;
  const query = Object.fromEntries(FILTERS.map((name) => [name, state[name]]));
  const found = await get("chains", { ...query, after });
  if (mine !== page) return;
  if (!after) find("list").replaceChildren(make("p", "note", `${found.total.toLocaleString()} chains`));
  append(found.rows.map(chainRow), found.next && (() => showChains(found.next.map((value) => value ?? "").join(","))));
  if (!after && !state.problem && found.rows.length) open(find("list").querySelector("button.result"));
}

function chainRow(row) {
  const title = row.titles.join(" · ") || "no steps";
  const button = make("button", "result", make("span", `verdict ${row.verdict}`, VERDICTS[row.verdict]), make("span", "score", row.score ?? ""), make("span", "title", title), make("span", "answer-small", row.answer));
  button.dataset.problem = row.problem;
  button.dataset.chain = row.id;
  return button;
}

async function showPairs(after = "") {
  const mine = ++page;
  const stages = Object.keys(facets.pairs);
  const stage = stages.includes(state.pairs) ? state.pairs : stages[0];
  if (!stage) return find("list").replaceChildren(make("p", "note", "This run has no preference pairs."));
  const found = await get("pairs", { stage, after });
  if (mine !== page) return;
  if (!after) {
    const box = select("pairs", "Round", stages.map((name) => [name, `${name} (${facets.pairs[name]})`]));
    find("list").replaceChildren(box, make("p", "note", `${found.total.toLocaleString()} pairs`));
  }
  const rows = found.rows.map((row) => {
    const button = make("button", "result pair", make("span", "score", row.margin === null ? "" : `+${row.margin}`), make("span", "title", row.question ?? ""), make("span", "answer-small", row.part));
    Object.assign(button.dataset, { problem: row.problem, chain: row.chosen, rejected: row.rejected });
    return button;
  });
  append(rows, found.next && (() => showPairs(found.next)));
  if (!after && !state.problem && rows.length) open(rows[0]);
}

function append(rows, more) {
  find("list").querySelector(".more")?.remove();
  for (const row of rows) {
    row.type = "button";
    row.onclick = () => open(row);
  }
  find("list").append(...rows);
  if (!more) return;
  const button = make("button", "more", "More");
  button.type = "button";
  button.onclick = more;
  find("list").append(button);
}

function open(row) {
  go({ problem: row.dataset.problem, chain: row.dataset.chain, rejected: row.dataset.rejected ?? "" }, true);
  mark();
  row.focus({ preventScroll: false });
}

function mark() {
  for (const row of find("list").querySelectorAll(".result")) row.classList.toggle("chosen", row.dataset.chain === state.chain && row.dataset.problem === state.problem);
}

// Details

async function showProblem() {
  if (!state.problem) return find("detail").replaceChildren();
  const name = state.problem;
  const found = await get(`problems/${encodeURIComponent(name)}`);
  if (name !== state.problem) return;
  const { problem } = found;
  const pictures = problem.images.map((digest) => {
    const image = make("img");
    image.src = `/data/images/${digest}`;
    image.alt = "Picture of the problem";
    return image;
  });
  const options = make("ol", "options", ...problem.options.map((option) => make("li", "", option)));
  const head = make("div", "asked", ...pictures, make("div", "", make("p", "", problem.question), problem.options.length ? options : null, make("p", "truth", "Ground truth: ", make("strong", "", problem.answers.join(" or ")))));
  const facts = make("p", "note", [found.split, found.family, problem.answer_type, problem.source].filter(Boolean).join(" · "));
  const byId = Object.fromEntries(found.chains.map((row) => [row.id, row]));
  const pair = state.tab === "pairs" && byId[state.chain] && byId[state.rejected];
  const body = pair ? showPair(byId[state.chain], byId[state.rejected], found) : make("div", "chains", ...found.chains.filter((row) => row.stage === (byId[state.chain]?.stage ?? state.stage)).map((row) => showChain(row, found)));
  find("detail").replaceChildren(head, facts, body);
  find("detail").querySelector(".chosen")?.scrollIntoView({ block: "nearest" });
}

function showChain(row, found, marks = []) {
  const { chain, judged, rated } = row;
  const steps = make("ol", "", ...chain.steps.map((step, at) => make("li", marks[at] ? "differs" : "", make("strong", "", step.summary), make("span", "", step.reasoning))));
  const uses = found.uses.filter((use) => use.chain === row.id);
  const fates = uses.map((use) => make("li", use.reason ? "out" : "in", `${use.stage}: ${use.reason ? use.reason.replaceAll("_", " ") : use.role === "chain" ? use.detail : use.role}`));
  return make(
    "article",
    `chain ${row.id === state.chain ? "chosen" : ""}`,
    make("h2", "", make("span", `verdict ${row.verdict}`, VERDICTS[row.verdict]), ` Path ${row.position + 1}`, make("span", "score", row.score === null ? "" : ` ${row.score} of 100`)),
    steps,
    make("p", "", chain.conclusion, " ", make("strong", "", chain.answer ? `Answer: ${chain.answer}` : "No answer")),
    judged ? make("p", "note", `${row.verdict || "not judged"} by ${judged.by}${judged.reason ? `: ${judged.reason}` : ""}`) : null,
    rated ? make("p", "note", `Scored ${rated.value ?? "not at all"}: ${rated.reason}`) : null,
    row.doubt ? make("p", "note error", row.doubt === "rule" ? "The rules see this answer differently than the judge." : "Right, but scored low.") : null,
    chain.defects.length ? make("p", "note", `Defects: ${chain.defects.join(", ").replaceAll("_", " ")}`) : null,
    fates.length ? make("ul", "fates", ...fates) : null,
    byHand(row, found.hand[row.id] ?? { correct: null, flagged: false, note: "" }),
  );
}

// What somebody says of a chain: the verdict it should have, or that it should enter no data set. The next `insightv build` follows it.
function byHand(row, said) {
  const button = (text, title, pressed, changes) => {
    const found = make("button", "", text);
    Object.assign(found, { type: "button", title });
    found.setAttribute("aria-pressed", pressed);
    found.onclick = async () => {
      const correction = { ...said, ...changes, chain_id: row.id, problem_id: row.problem };
      const response = await fetch("/data/corrections", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(correction) });
      if (!response.ok) throw new Error((await response.json()).error.message);
      await showProblem();
    };
    return found;
  };
  return make(
    "p",
    "hand",
    "By hand: ",
    button("Right", "The answer is right, whatever the judge said", said.correct === true, { correct: said.correct === true ? null : true }),
    button("Wrong", "The answer is wrong, whatever the judge said", said.correct === false, { correct: said.correct === false ? null : false }),
    button("Flag", "Keep this chain out of every data set", said.flagged, { flagged: !said.flagged }),
  );
}

function showPair(chosen, rejected, found) {
  const texts = [chosen, rejected].map((row) => row.chain.steps.map((step) => `${step.summary}\n${step.reasoning}`));
  const [left, right] = differing(...texts);
  return make("div", "columns", make("div", "", make("h2", "good", "Chosen"), showChain(chosen, found, left)), make("div", "", make("h2", "error", "Rejected"), showChain(rejected, found, right)));
}

async function showPlots() {
  const mine = ++page;
  const stage = facets.stages[state.stage] ?? {};
  const found = await get("plots", { stage: state.stage });
  if (mine !== page) return;
  const both = (rows) => rows.map(([from, right, other]) => [from, [right, other]]);
  const reasons = Object.entries(facets.sets).map(([name, counts]) => make("div", "", make("h2", "", name), table(Object.entries(counts))));
  const rounds = Object.entries(found.rounds).flatMap(([name, steps]) => ["margin", "accuracy", "kl"].map((figure) => lines(`${name}: ${figure}`, steps.map((step) => [step.step, step[figure]]))));
  find("list").replaceChildren(make("p", "note", `${state.stage}: dark is right, light is wrong or open`));
  find("detail").replaceChildren(
    make("div", "plots", bars("Scores", both(found.scores)), bars("Words of a chain", both(found.words)), found.margins.length ? bars("Margins of the pairs in points", found.margins.map(([from, count]) => [from, [count, 0]])) : null, ...rounds),
    make("div", "plots", make("div", "", make("h2", "", "Defects"), table(Object.entries(stage.defect ?? {}))), ...reasons),
  );
}

const table = (rows) => make("table", "", ...rows.map(([name, count]) => make("tr", "", make("td", "", name.replaceAll("_", " ")), make("td", "", count.toLocaleString()))));

// All of it

async function show(keep = false) {
  for (const tab of find("tabs").children) tab.setAttribute("aria-pressed", tab.dataset.tab === state.tab);
  try {
    if (!keep) {
      showFilters();
      find("detail").replaceChildren();
      if (state.tab === "chains") await showChains();
      else if (state.tab === "pairs") await showPairs();
      else return await showPlots();
      mark();
    }
    await showProblem();
  } catch (error) {
    find("list").prepend(make("p", "note error", error.message));
  }
}

for (const tab of find("tabs").children) tab.onclick = () => go({ tab: tab.dataset.tab, chain: "", rejected: "" });
find("filters").onsubmit = (event) => event.preventDefault();
window.onpopstate = () => {
  read();
  show();
};
document.onkeydown = (event) => {
  if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const rows = [...find("list").querySelectorAll(".result")], at = rows.findIndex((row) => row.classList.contains("chosen"));
  if (event.key === "/") find("words").focus();
  else if (event.key === "j" && at + 1 < rows.length) open(rows[at + 1]);
  else if (event.key === "k" && at > 0) open(rows[at - 1]);
  else if (event.key === "n") find("list").querySelector(".more")?.click();
  else return;
  event.preventDefault();
};

facets = await get("facets");
document.title = `${facets.run}: reasoning data`;
find("run").textContent = facets.run;
read();
await show();
