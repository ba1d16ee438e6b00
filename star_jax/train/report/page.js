"use strict";
// Texts reach the page through textContent alone; nothing here makes markup out of a string.

const data = JSON.parse(document.getElementById("data").textContent);
const SVG = document.querySelector("svg")?.namespaceURI;

function make(name, options = {}, ...inside) {
  const { cls, ...rest } = options;
  const node = document.createElement(name);
  if (cls) node.className = cls;
  Object.assign(node, rest);
  node.append(...inside.filter((part) => part !== null && part !== undefined));
  return node;
}

// The theme: what the system asks for, until the button is pressed.

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const now = root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  root.dataset.theme = now === "dark" ? "light" : "dark";
});

// Values under the pointer.

const tip = document.getElementById("tip");

function shown(value, unit) {
  if (unit === "share") return `${(100 * value).toFixed(1)} %`;
  const text = Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(5)));
  return unit ? `${text} ${unit}` : text;
}

function nearest(points, x) {
  let low = 0;
  let high = points.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < x) low = middle + 1;
    else high = middle;
  }
  return low > 0 && x - points[low - 1][0] <= points[low][0] - x ? points[low - 1] : points[low];
}

function follow(figure) {
  const chart = data.charts[figure.dataset.chart];
  const svg = figure.querySelector(".plot svg");
  const [left, top, right, bottom] = chart.box;
  const [first, last] = chart.range;
  const lines = chart.lines.filter((line) => line.points.length);
  const rule = document.createElementNS(SVG, "line");
  rule.setAttribute("class", "here");
  rule.setAttribute("y1", top);
  rule.setAttribute("y2", bottom);
  const named = (x) => (chart.doubling ? 2 ** x : x).toLocaleString("en", { maximumFractionDigits: 2 });

  function move(event) {
    if (!lines.length) return;
    const rect = svg.getBoundingClientRect();
    const at = ((event.clientX - rect.left) / rect.width) * svg.viewBox.baseVal.width;
    const asked = first + ((at - left) / (right - left)) * (last - first);
    const all = lines.map((line) => nearest(line.points, asked));
    const x = all.reduce((best, [each]) => (Math.abs(each - asked) < Math.abs(best - asked) ? each : best), all[0][0]);
    const place = left + ((x - first) / (last - first || 1)) * (right - left);
    rule.setAttribute("x1", place);
    rule.setAttribute("x2", place);
    if (!rule.parentNode) svg.append(rule);
    const rows = lines.map((line) => {
      const point = nearest(line.points, x);
      const where = point[0] === x ? "" : ` (at ${named(point[0])})`;
      const dot = make("i", { cls: `c${line.colour}` });
      return make("div", {}, dot, `${line.label}: ${shown(point[1], chart.unit)}${where}`);
    });
    tip.replaceChildren(make("div", {}, `${chart.x} ${named(x)}`), ...rows);
    tip.hidden = false;
    const width = document.documentElement.clientWidth;
    const beside = event.clientX + 14 + tip.offsetWidth > width ? event.clientX - tip.offsetWidth - 14 : event.clientX + 14;
    tip.style.left = `${Math.max(4, beside) + scrollX}px`;
    tip.style.top = `${event.clientY + scrollY + 14}px`;
  }

  function leave() {
    rule.remove();
    tip.hidden = true;
  }

  svg.addEventListener("pointermove", move);
  svg.addEventListener("pointerdown", move);
  svg.addEventListener("pointerleave", leave);
}

document.querySelectorAll("figure[data-chart]").forEach(follow);

// Browsers of answers.

function choice(label, options, changed) {
  const select = make("select", { ariaLabel: label });
  select.addEventListener("change", changed);
  const box = make("label", {}, label, select);
  const fill = (entries) => {
    const held = select.value;
    select.replaceChildren(...entries.map(([value, text]) => make("option", { value }, text)));
    if (entries.some(([value]) => value === held)) select.value = held;
    box.hidden = entries.length < 2;
    box.style.display = box.hidden ? "none" : "";
  };
  fill(options);
  return { box, fill, get value() { return select.value; } };
}

const unique = (values) => [...new Set(values)];
const optional = (word, values) => [["", word], ...values.map((value) => [String(value), String(value)])];
const signed = (value) => (value === null ? "–" : value.toFixed(3).replace("-", "−"));
const sources = (list) => list.map((source, i) => [String(i), source.label]);

function block(title, text, extra = null) {
  return make("div", {}, make("h4", {}, title, extra), make("pre", {}, text || "–"));
}

// The question is at the end of a prompt, under the tools.
function atEnd(box) {
  const pre = box.querySelector("pre");
  box.className = "prompt";
  requestAnimationFrame(() => { pre.scrollTop = pre.scrollHeight; });
  return box;
}

function facts(entries) {
  return make("dl", { cls: "facts" }, ...entries.map(([name, value]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value === null || value === "" ? "–" : String(value)))));
}

const REWARDS = {
  negative: (x) => x < 0,
  none: (x) => x === 0,
  some: (x) => x > 0 && x < 1,
  full: (x) => x >= 1,
};

function browseRollouts(root, all) {
  const list = make("ul", { cls: "list" });
  const detail = make("div");
  const count = make("span", { cls: "count" });
  const stage = choice("stage", sources(all), () => { refill(); show(); });
  const number = choice("rollout", [], show);
  const wanted = choice("due", [], show);
  const kind = choice("kind", [], show);
  const reward = choice("reward", [
    ["", "any"], ["negative", "below 0"], ["none", "0"], ["some", "between 0 and 1"], ["full", "1 or more"],
  ], show);
  const use = choice("learnt from", [], show);
  const search = make("input", { type: "search", placeholder: "text", ariaLabel: "text" });
  search.addEventListener("input", show);
  const choices = [stage, number, wanted, kind, reward, use];
  const filters = make("div", { cls: "filters" }, ...choices.map((each) => each.box),
    make("label", {}, "holds the text", search), count);
  root.append(filters, make("div", { cls: "two" }, list, detail));

  function refill() {
    const { answers } = all[Number(stage.value)];
    number.fill(optional("all", unique(answers.map((each) => each.rollout)).sort((a, b) => a - b)));
    wanted.fill(optional("both", unique(answers.map((each) => each.wanted)).sort()));
    kind.fill(optional("any", unique(answers.map((each) => each.kind)).sort()));
    use.fill(optional("any", unique(answers.map((each) => each.use)).sort()));
  }

  function fits(each) {
    const text = search.value.toLowerCase();
    return (!number.value || String(each.rollout) === number.value)
      && (!wanted.value || each.wanted === wanted.value)
      && (!kind.value || each.kind === kind.value)
      && (!use.value || each.use === use.value)
      && (!reward.value || (each.reward !== null && REWARDS[reward.value](each.reward)))
      && (!text || [each.prompt, each.generation, each.label, each.row_id].some((part) => part.toLowerCase().includes(text)));
  }

  function show() {
    const { answers, total } = all[Number(stage.value)];
    const some = answers.filter(fits);
    count.textContent = `${some.length} of ${answers.length} shown here, of ${total.toLocaleString("en")}`;
    const buttons = some.map((each) => {
      const button = make("button", { type: "button" },
        make("b", {}, signed(each.reward)),
        make("span", {}, each.kind),
        make("small", {}, `rollout ${each.rollout}, ${each.wanted} due, ${each.row_id}`));
      button.addEventListener("click", () => {
        for (const other of list.querySelectorAll("button")) other.ariaPressed = String(other === button);
        tell(each);
      });
      return make("li", {}, button);
    });
    list.replaceChildren(...(buttons.length ? buttons : [make("li", { cls: "none" }, "None fits.")]));
    detail.replaceChildren();
    list.querySelector("button")?.click();
  }

  function tell(each) {
    detail.replaceChildren(
      facts([
        ["reward", signed(each.reward)], ["format", signed(each.format)], ["answer", signed(each.answer)],
        ["advantage", signed(each.advantage)], ["kind", each.kind], ["ended", each.end],
        ["learnt from", each.use], ["rollout", each.rollout], ["row", `${each.row_id}, line ${each.line ?? "–"}`],
        ["sample", each.guided ? "the row's own target" : each.sample],
      ]),
      make("p", { cls: "why" }, each.why),
      atEnd(block("prompt", each.prompt)),
      make("div", { cls: "sides" },
        block("answer", each.generation), block(`label (${each.wanted} due)`, each.label)),
      block("calls that can be read", each.calls || "none"),
    );
  }

  refill();
  show();
}

function browseConversations(root, all) {
  const detail = make("div");
  const run = choice("run", sources(all), () => { refill(); show(0); });
  const set = choice("set", [], () => { recase(); show(0); });
  const kind = choice("case", [], () => show(0));
  const back = make("button", { type: "button" }, "previous");
  const next = make("button", { type: "button" }, "next");
  const count = make("span", { cls: "count" });
  let place = 0;
  back.addEventListener("click", () => show(place - 1));
  next.addEventListener("click", () => show(place + 1));
  root.append(make("div", { cls: "filters" }, run.box, set.box, kind.box, back, next, count), detail);
  const plain = (values) => values.map((value) => [value, value || "–"]);

  function refill() {
    set.fill(plain(unique(all[Number(run.value)].cases.map((each) => each.set))));
    recase();
  }

  function recase() {
    const cases = all[Number(run.value)].cases.filter((each) => each.set === set.value);
    kind.fill(plain(unique(cases.map((each) => each.case))));
  }

  function show(asked) {
    const source = all[Number(run.value)];
    const some = source.cases.filter((each) => each.set === set.value && each.case === kind.value);
    place = Math.min(Math.max(asked, 0), some.length - 1);
    back.disabled = place <= 0;
    next.disabled = place >= some.length - 1;
    const each = some[place];
    if (!each) return;
    count.textContent = `${place + 1} of ${some.length} shown here, of ${each.of.toLocaleString("en")}`;
    const answers = each.answers.map((answer, i) => {
      const name = make("b", {}, source.stages[i]);
      if (!answer) return block("", "not asked", name);
      const mark = answer.exact === null ? "" : answer.exact ? "exact, " : "not exact, ";
      const box = block("", answer.text, name);
      box.querySelector("h4").append(`: ${mark}reward ${signed(answer.reward)}`);
      box.append(make("p", { cls: "why" }, answer.why));
      return box;
    });
    detail.replaceChildren(
      facts([["row", each.id], ["due", each.wanted]]),
      atEnd(block("prompt", each.prompt)),
      block("right answer", each.label),
      make("div", { cls: "sides" }, ...answers),
    );
  }

  refill();
  show(0);
}

const BROWSERS = { rollouts: browseRollouts, conversations: browseConversations };
for (const root of document.querySelectorAll("[data-of]")) {
  if (data[root.dataset.of].length) BROWSERS[root.dataset.of](root, data[root.dataset.of]);
}
