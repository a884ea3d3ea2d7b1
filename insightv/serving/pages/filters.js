// The form that chooses chains. It is made once and then only kept true, so that whoever types in it is not interrupted.

import { find, given, make } from "/pages/dom.js";

export const FILTERS = ["stage", "family", "verdict", "low", "high", "defect", "doubt", "entered", "hand", "words", "sort"];
const SORTS = [["", "in order"], ["score", "best score first"], ["score-up", "worst score first"], ["words", "longest first"], ["words-up", "shortest first"]];
const DOUBTS = [["", "all"], ["any", "by rules or scorer"], ["rule", "rules against the judge"], ["score", "right, but scored low"]];
const fields = {};
const link = make("a", "button", "Export selection");

export const selection = (state) => Object.fromEntries(FILTERS.map((name) => [name, state[name]]));

// `go` is called with the fields that somebody changed.
export function makeFilters(go) {
  const add = (name, label, input, className = "") => {
    Object.assign(input, { name, onchange: () => go({ [name]: input.value }) });
    fields[name] = input;
    return make("label", className, label, input);
  };
  const select = (name, label) => add(name, label, make("select"));
  const number = (name, label) => add(name, label, Object.assign(make("input"), { type: "number", min: 0, max: 100 }), "half");
  const search = Object.assign(make("input"), { type: "search", id: "words", placeholder: 'words, or "a phrase"' });
  const clear = Object.assign(make("button", "", "Clear"), { type: "button", onclick: () => go(Object.fromEntries(FILTERS.filter((name) => name !== "stage").map((name) => [name, ""]))) });
  const scores = [number("low", "Score from"), number("high", "to")];
  const counted = [select("family", "Family"), select("verdict", "Verdict"), ...scores, select("defect", "Defect")];
  const others = [select("doubt", "Seen differently"), select("entered", "Entered"), select("hand", "By hand"), select("sort", "Sort")];
  find("filters").append(add("words", "Search", search), select("stage", "Stage"), ...counted, ...others, make("p", "row", clear, link));
  find("filters").onsubmit = (event) => event.preventDefault();
}

export function showFilters(state, facets) {
  const stage = facets.stages[state.stage] ?? {};
  const counts = (found) => [["", "any"], ...Object.entries(found ?? {}).map(([name, count]) => [name || "none", `${name || "not judged"} (${count.toLocaleString()})`])];
  const options = {
    stage: Object.entries(facets.stages).map(([name, { chains }]) => [name, `${name} (${chains.toLocaleString()})`]),
    family: counts(stage.family).filter(([name]) => name !== "none"),
    verdict: counts(stage.verdict),
    defect: counts(stage.defect),
    doubt: DOUBTS,
    entered: [["", "anything"], ...Object.entries(facets.sets).map(([name, reasons]) => [name, `${name} (${(reasons.entered ?? 0).toLocaleString()})`])],
    hand: [["", "all"], ["any", "corrected by hand"]],
    sort: SORTS,
  };
  for (const [name, choices] of Object.entries(options)) fill(fields[name], choices);
  for (const name of FILTERS) if (fields[name].value !== (state[name] ?? "")) fields[name].value = state[name] ?? "";
  for (const label of find("filters").children) label.hidden = state.tab === "pairs" || (state.tab === "plots" && !label.contains(fields.stage));
  link.href = `/data/export?${new URLSearchParams(given(selection(state)))}`;
}

// Options are replaced only when they are others: an open list stays open.
export function fill(box, choices) {
  const told = JSON.stringify(choices);
  if (box.dataset.told === told) return;
  box.dataset.told = told;
  box.replaceChildren(...choices.map(([value, text]) => Object.assign(make("option", "", text), { value })));
}
