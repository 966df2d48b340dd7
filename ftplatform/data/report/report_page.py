"""Style and script of the row report's page; they stand inside it, so that it opens without a network."""

STYLE = """
:root { --ink: #1f2933; --soft: #5c6b7a; --line: #e1e7ee; --back: #f5f7fa; --card: #fff; --red: #b42318; --redback: #fef3f2; --green: #1a7f37; --greenback: #effaf1; --amber: #8a5a00; --amberback: #fff8e6; --link: #1c5fa8; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9f0; --soft: #9aa8b7; --line: #2c3845; --back: #12181f; --card: #1a222b; --red: #ff8a7d; --redback: #331a18; --green: #6fd58a; --greenback: #16291b; --amber: #f2c25c; --amberback: #2e2510; --link: #7fb4ee; } }
* { box-sizing: border-box; }
body { margin: 0; font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: var(--ink); background: var(--back); }
main { max-width: 1240px; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
header { display: flex; align-items: center; gap: 1rem; flex-wrap: wrap; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
.verdict { margin: 0; padding: .15rem .8rem; border-radius: 99px; font-weight: 600; }
.verdict.refused { color: var(--red); background: var(--redback); box-shadow: inset 0 0 0 1px var(--red); }
.verdict.accepted { color: var(--green); background: var(--greenback); box-shadow: inset 0 0 0 1px var(--green); }
.reasons { margin: 1rem 0; padding: .7rem 1rem .7rem 1.8rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow-wrap: anywhere; }
p.reasons { padding-left: 1rem; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem; margin: 1.2rem 0 0; }
.numbers div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .6rem .9rem; }
.numbers dt { color: var(--soft); font-size: .85rem; }
.numbers dd { margin: 0; font-size: 1.5rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.numbers .bad dd { color: var(--red); }
table { width: 100%; border-collapse: collapse; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
th, td { padding: .45rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th { color: var(--soft); font-size: .85rem; font-weight: 600; position: sticky; top: 0; background: var(--card); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
#findings { table-layout: fixed; font-size: .9rem; }
#findings th:nth-child(1) { width: 18%; } #findings th:nth-child(2) { width: 19%; } #findings th:nth-child(3) { width: 26%; }
#findings td:first-child { border-left: 3px solid var(--amber); }
#findings tr.error td:first-child { border-left-color: var(--red); }
#findings tr[hidden] { display: none; }
.found { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .85rem; unicode-bidi: isolate; }
code, pre { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .88em; }
.note { color: var(--soft); font-size: .88rem; overflow-wrap: anywhere; }
details { background: var(--card); border: 1px solid var(--line); border-left: 3px solid var(--amber); border-radius: 8px; margin: .5rem 0; padding: .1rem 1rem; }
details.error { border-left-color: var(--red); }
summary { cursor: pointer; padding: .5rem 0; }
summary code { font-weight: 600; font-size: .95rem; }
.level { display: inline-block; min-width: 4.6rem; text-align: center; font-size: .8rem; border-radius: 99px; padding: .05rem .5rem; color: var(--amber); background: var(--amberback); }
.error .level { color: var(--red); background: var(--redback); }
.count { float: right; font-weight: 600; font-variant-numeric: tabular-nums; }
details p { margin: .4rem 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: .75rem; margin: .6rem 0; }
figure { margin: 0; min-width: 0; } figcaption { color: var(--soft); font-size: .82rem; }
pre { margin: .2rem 0 0; padding: .6rem .8rem; background: var(--back); border: 1px solid var(--line); border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere; }
.filter { display: flex; flex-wrap: wrap; gap: 1rem; align-items: center; margin: .6rem 0; }
select, input, button { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .25rem .6rem; max-width: 100%; }
button { color: var(--link); cursor: pointer; }
@media print { .filter, button { display: none; } th { position: static; } }
"""

SCRIPT = """
"use strict";
(() => {
  const code = document.getElementById("code");
  const text = document.getElementById("text");
  const visible = document.getElementById("visible");
  if (!code) return;
  const rows = [...document.querySelectorAll("#findings tbody tr")];
  const contents = rows.map((row) => row.textContent.toLowerCase());
  const apply = () => {
    const wanted = text.value.toLowerCase();
    let count = 0;
    rows.forEach((row, i) => {
      row.hidden = (code.value && row.dataset.code !== code.value) || !contents[i].includes(wanted);
      count += row.hidden ? 0 : 1;
    });
    visible.textContent = `${count.toLocaleString()} shown`;
  };
  code.addEventListener("change", apply);
  text.addEventListener("input", apply);
  for (const button of document.querySelectorAll("button[data-code]")) {
    button.addEventListener("click", () => {
      code.value = button.dataset.code;
      text.value = "";
      apply();
      document.getElementById("findings").scrollIntoView({ behavior: "smooth" });
    });
  }
  apply();
})();
"""
