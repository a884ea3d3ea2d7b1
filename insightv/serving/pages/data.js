// The viewer: filters, a list of chains or pairs, and all that belongs to the problem that is chosen. Its whole state is the link.

import { press, showDetail, showProblem, sign } from "/pages/detail.js";
import { button, find, get, given, guarded, make, reveal } from "/pages/dom.js";
import { makeFilters, selection, showFilters } from "/pages/filters.js";
import { bars, lines } from "/pages/plots.js";

const TABS = ["chains", "pairs", "plots"];
const CHOICE = ["problem", "chain", "rejected"];
let facets = null;
let state = {};
let listed = ""; // what the list was made for
let page = 0; // counts lists, so that a late answer to an old question is not shown
let more = null; // loads the rows that follow
let details = null; // settles when those of the chosen row are shown

function set(said) {
  const known = (name, choices) => (choices.includes(said[name]) ? said[name] : (choices[0] ?? ""));
  state = { ...said, tab: known("tab", TABS), stage: known("stage", Object.keys(facets.stages)), pairs: known("pairs", Object.keys(facets.pairs)) };
}

const read = () => set(Object.fromEntries(new URLSearchParams(location.search)));
const link = () => `/data?${new URLSearchParams(given(state))}`;

// Filters and tabs are places to come back to.
const go = guarded(async (changes) => {
  set({ ...state, ...changes, ...Object.fromEntries(CHOICE.map((name) => [name, ""])) });
  history.pushState(null, "", link());
  await show();
});

// A chosen row is not: who has looked through a hundred goes back to where they came from.
function choose(row) {
  set({ ...state, problem: row.dataset.problem, chain: row.dataset.chain, rejected: row.dataset.rejected });
  history.replaceState(null, "", link());
  mark();
  return showChosen();
}

const showChosen = () => (details = showProblem(state, corrected));

const rows = () => [...find("list").querySelectorAll(".result")];
const isChosen = (row) => row.dataset.problem === state.problem && row.dataset.chain === state.chain && (row.dataset.rejected ?? "") === (state.rejected ?? "");

function mark() {
  for (const row of rows()) row.classList.toggle("chosen", isChosen(row));
}

function corrected(chain, hand) {
  for (const row of rows()) if (row.dataset.chain === chain && row.dataset.verdict !== undefined) row.firstChild.replaceWith(sign(row.dataset.verdict, hand));
}

// Lists

async function listChains(turn, chain) {
  const asked = selection(state), first = await get("chains", asked);
  const known = !chain || first.rows.some((row) => row.id === chain);
  const other = known ? first : await get("chains", { ...asked, at: chain });
  if (turn !== page) return;
  // A chain that the selection has not is no place to begin at.
  const at = !known && other.rows[0]?.id === chain, found = at ? other : first;
  find("list").replaceChildren(make("p", "note", `${found.total.toLocaleString()} chains`), ...(at ? [button("From the first", () => ((listed = ""), show("")))] : []));
  appendChains(turn, found);
}

const appendChains = (turn, found) => append(found.rows.map(chainRow), found.next && (async () => {
  const following = await get("chains", { ...selection(state), after: found.next.map((value) => value ?? "").join(",") });
  if (turn === page) appendChains(turn, following);
}));

function chainRow(row) {
  const title = row.titles.join(" · ") || "no steps";
  const element = make("button", "result", sign(row.verdict, row.hand), make("span", "score", row.score ?? ""), make("span", "title", title), make("span", "answer-small", row.answer));
  Object.assign(element.dataset, { problem: row.problem, chain: row.id, verdict: row.verdict });
  return element;
}

async function listPairs(turn, after = "") {
  if (!state.pairs) return void find("list").replaceChildren(make("p", "note", "This run has no preference pairs."));
  const found = await get("pairs", { stage: state.pairs, after });
  if (turn !== page) return;
  if (!after) {
    const told = "The margin is the chosen chain's score minus the rejected one's, where both are right. Steps that the other has not are marked.";
    find("list").replaceChildren(make("p", "note", `${found.total.toLocaleString()} pairs. ${told}`));
  }
  append(found.rows.map(pairRow), found.next && (() => listPairs(turn, found.next)));
}

function pairRow(row) {
  const margin = row.margin === null ? "" : `${row.margin > 0 ? "+" : ""}${row.margin}`;
  const element = make("button", "result pair", make("span", "score", margin), make("span", "title", row.question ?? ""), make("span", "answer-small", row.part));
  Object.assign(element.dataset, { problem: row.problem, chain: row.chosen, rejected: row.rejected });
  return element;
}

function append(found, following) {
  const list = find("list");
  list.querySelector(".more")?.remove();
  for (const row of found) Object.assign(row, { type: "button", onclick: guarded(() => choose(row)) });
  list.append(...found);
  more = following && (async () => {
    const again = more;
    more = null; // whoever is quick loads nothing twice
    await following().catch((error) => {
      more ??= again;
      throw error;
    });
  });
  if (more) list.append(button("More", () => more?.(), "more"));
  mark();
}

async function listPlots(turn) {
  const stage = facets.stages[state.stage] ?? {};
  const found = state.stage ? await get("plots", { stage: state.stage }) : { scores: [], words: [], margins: [], rounds: {} };
  if (turn !== page) return;
  const both = (counts) => counts.map(([from, right, other]) => [from, [right, other]]);
  const reasons = Object.entries(facets.sets).map(([name, counts]) => make("div", "", make("h2", "", name), table(counts)));
  const rounds = Object.entries(found.rounds).flatMap(([name, steps]) => ["margin", "accuracy", "kl"].map((figure) => lines(`${name}: ${figure}`, steps.map((step) => [step.step, step[figure]]))));
  const margins = found.margins.length ? bars("Margins of the pairs in points", found.margins.map(([from, count]) => [from, [count, 0]])) : null;
  find("list").replaceChildren(make("p", "note", state.stage ? `${state.stage}: dark is right, light is wrong or open` : "This run has no chains yet."));
  showDetail(
    make("div", "plots", bars("Scores", both(found.scores)), bars("Words of a chain", both(found.words)), margins, rounds),
    make("div", "plots", make("div", "", make("h2", "", "Defects"), table(stage.defect ?? {})), reasons),
  );
}

const table = (counts) => make("table", "", Object.entries(counts).map(([name, count]) => make("tr", "", make("td", "", name.replaceAll("_", " ")), make("td", "", count.toLocaleString()))));

// All of it

// The list begins at the first, or at a chain that it would not have so early.
async function show(chain = state.chain) {
  for (const tab of find("tabs").children) tab.setAttribute("aria-pressed", tab.dataset.tab === state.tab);
  showFilters(state, facets);
  const wanted = JSON.stringify([state.tab, state.tab === "pairs" ? state.pairs : selection(state)]);
  if (wanted !== listed) {
    const turn = ++page;
    listed = wanted;
    more = null;
    find("list").replaceChildren();
    showDetail();
    try {
      await { chains: () => listChains(turn, chain), pairs: () => listPairs(turn), plots: () => listPlots(turn) }[state.tab]();
    } catch (error) {
      if (turn !== page) return;
      listed = "";
      throw error;
    }
    if (turn !== page) return;
  }
  if (state.tab === "plots") return;
  mark();
  const [first] = rows();
  if (!state.problem && first) await choose(first);
  else await showChosen();
}

let steps = Promise.resolve(); // keys come one after the other: one that is pressed while rows or details are loaded is not lost

async function step(by) {
  const at = rows().findIndex(isChosen);
  if (at + by >= rows().length && more) await more();
  const row = rows()[at + by];
  if (!row) return;
  row.focus({ preventScroll: true });
  reveal(find("list"), row);
  guarded(choose)(row);
}

// What is shown may still be the chain before the chosen one, and no verdict may come to that.
async function say(name) {
  const { chain } = state;
  await details;
  press(chain, name);
}

const queued = (work) => () => (steps = steps.then(guarded(work)));
const KEYS = { j: queued(() => step(1)), k: queued(() => step(-1)), n: () => more?.(), "/": () => find("words").focus() };
const SAID = { r: queued(() => say("Right")), w: queued(() => say("Wrong")), f: queued(() => say("Flag")) };

function pressed(event) {
  if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const key = KEYS[event.key] ?? (event.repeat ? null : SAID[event.key]); // a key held down says nothing twice
  if (!key) return;
  event.preventDefault();
  guarded(key)();
}

// Nothing answers before there is something to choose from.
function listen() {
  document.onkeydown = pressed;
  window.onpopstate = guarded(async () => {
    read();
    await show();
  });
  for (const tab of find("tabs").children) tab.onclick = () => go({ tab: tab.dataset.tab });
}

await guarded(async () => {
  facets = await get("facets");
  document.title = `${facets.run}: reasoning data`;
  find("run").textContent = facets.run;
  find("refreshing").hidden = !facets.refreshing;
  makeFilters(go);
  listen();
  read();
  await show();
})();
