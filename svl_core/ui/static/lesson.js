// The guided lesson: a panel beside the page (below it on a phone), or one line at its foot for a lecture hall. Python brings the steps and
// puts the page into each step's state; here they are shown, guesses are taken, and nothing is told before a guess or a wish to see.
(() => {
  "use strict";
  const { make } = svl;
  const PATIENCE = 20000;  // ms that the page rests without an answer to what was tried, after which its row says so
  const SETTLED = 500;  // ms that a plan must stand before the skills are asked with it
  const VEILED = "#plot-redundancy, #plot-similarity, #plot-gap, #plot-pca, #choose, #halves, #strip, .hero-layers";  // they rank the layers that are to be guessed
  const address = change => {
    const query = new URLSearchParams(location.search);
    change(query);
    history.replaceState(history.state, "", `${location.pathname}${query.size ? "?" + query : ""}`);
  };
  const reduced = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
  const busy = () => !!document.querySelector("#status .pill");
  const first = selectors => selectors.map(one => document.querySelector(one)).find(node => node?.getClientRects().length);
  const facts = () => document.querySelector("#metrics .facts")?.dataset;
  // whether the answers on the page are those to what was asked: the same picture, question, layers and compensation
  const answers = (asked, found = facts()) => !!found && !!asked && found.origin === asked.origin && found.prompt === asked.prompt && found.drop === asked.drop.join() && (!asked.drop.length || found.compensation === asked.compensation);

  svl.parts.lesson = (box, state, trigger) => {
    let at = -1, seen = new Set(), steps = null, small = false, presenting = false, enlarged = false, asked = null, queue = [], waiting = null, measured = "";
    const start = make("button", { type: "button", class: "svl-start" }, "Take the lesson: eight short steps");
    const panel = make("section", { class: "svl-panel", role: "complementary", "aria-label": "Lesson" });
    panel.hidden = true;
    box.append(start, panel);

    // ---- where the lesson is
    const ask = (name = "") => { asked = steps?.[at]?.stages[name] ?? asked; trigger("step", { step: at, do: name }); };
    const go = (to, focus = true) => {
      at = to; queue = []; waiting = null; measured = "";
      if (presenting) small = !steps?.[at]?.skills;  // what that step shows is in the panel itself
      address(query => query.set("lesson", at + 1));
      document.body.classList.add("svl-taught");
      start.hidden = true;
      ask();
      show(focus);
    };
    const leave = () => {
      at = -1; seen = new Set(); queue = []; waiting = null; asked = null;
      address(query => { query.delete("lesson"); query.delete("present"); });
      present(false);
      veil(false);
      document.body.classList.remove("svl-taught");
      fit();
      light(null);
      document.querySelectorAll(".svl-pointed").forEach(n => n.classList.remove("svl-pointed"));
      panel.hidden = true; start.hidden = false;
      trigger("step", { step: -1 });
      start.focus({ preventScroll: true });
    };
    const look = selectors => {
      const node = first(selectors);
      document.querySelectorAll(".svl-pointed").forEach(n => n.classList.remove("svl-pointed"));
      if (!node) return;
      const dock = document.getElementById("dock"), pinned = dock && getComputedStyle(dock).position === "sticky";
      const above = pinned && dock.compareDocumentPosition(node) & Node.DOCUMENT_POSITION_FOLLOWING ? dock.getBoundingClientRect().height : 0;
      const head = node.previousElementSibling?.querySelector(".figure-head") && innerWidth > 900 && innerHeight > 760 && !presenting ? node.previousElementSibling : node;  // with its heading, where there is room
      const scrolled = scrollY + head.getBoundingClientRect().top - above - (above ? 20 : 60);
      scrollTo({ top: scrolled, behavior: reduced() ? "auto" : "smooth" });
      node.classList.add("svl-pointed");
    };
    // what tells the answer stays out of sight, of reach and of a screen reader until it was guessed
    const veil = on => {
      document.body.classList.toggle("svl-veiled", on);
      document.querySelectorAll(VEILED).forEach(node => { node.inert = on; });
    };
    const light = part => {
      panel.querySelectorAll(".svl-drawing [data-part]").forEach(node => node.classList.toggle("lit", !!part && node.dataset.part.split(" ").includes(part.name)));
      document.querySelectorAll(".svl-lit").forEach(node => node.classList.remove("svl-lit"));
      if (part) document.querySelectorAll(part.hero).forEach(node => node.classList.add("svl-lit"));
    };
    const present = on => {
      if (on === presenting) return;
      presenting = on;
      document.body.classList.toggle("svl-presenting", on);
      const type = document.querySelector("#type button"), large = type?.getAttribute("aria-pressed") === "true";
      if (type && on && !large) { enlarged = true; type.click(); }
      if (type && !on && enlarged) { enlarged = false; if (large) type.click(); }
      address(query => on ? query.set("present", "1") : query.delete("present"));
    };

    const ONE_LINE = 800;  // pixels of a window's height up to which the dock beside the lesson is one line
    const fit = () => {
      const wide = innerWidth > 900, bar = document.getElementById("bar");
      document.body.classList.toggle("svl-oneline", at >= 0 && wide && (presenting || innerHeight <= ONE_LINE));
      panel.style.bottom = !wide && steps?.[at]?.skills && bar ? `${bar.offsetHeight}px` : "";  // the slider at a phone's foot is needed there
    };
    addEventListener("resize", fit);

    // ---- what the page answers now, in the panel's own words
    const now = make("div", { class: "svl-now" });
    const names = layers => layers.split(",").filter(Boolean).reduce((runs, k) => { const run = runs.at(-1); if (run && +run.at(-1) + 1 === +k) run.push(k); else runs.push([k]); return runs; }, []).map(run => run.length > 2 ? `${run[0]}–${run.at(-1)}` : run.join(", ")).join(", ");
    const copied = id => { const text = document.querySelector(`#${id} .text`); const node = make("p", { class: "svl-answer" }); if (text) node.append(...[...text.childNodes].map(n => n.cloneNode(true))); return node; };
    const tell = () => {
      if (at < 0 || !steps?.[at].answers) return;
      const found = facts(), want = asked ?? steps[at].stages[""];
      const there = !!found && found.origin === want.origin && found.prompt === want.prompt && !!document.querySelector("#answer-pruned .text");
      const src = document.querySelector("#image .image-frame img")?.src;
      const key = `${there}${there ? found.drop + found.compensation + document.getElementById("answer-full").innerText + document.getElementById("answer-pruned").innerText : ""}${src}${at}`;
      if (now.dataset.key === key) return;
      now.dataset.key = key;
      const lines = make("div", { class: "svl-lines" }, make("p", { class: "svl-prompt" }, want.prompt));
      if (!there) lines.append(make("p", { class: "svl-answer empty" }, "Both models are asked …"));
      else {
        lines.append(make("p", { class: "svl-who" }, "All layers"), copied("answer-full"));
        if (found.drop) lines.append(make("p", { class: "svl-who gone" }, `Without ${names(found.drop)}`), copied("answer-pruned"));
      }
      now.replaceChildren(...(src && there ? [make("img", { src, alt: "The picture that is asked about", width: "88", height: "88" })] : []), lines);
    };

    // ---- one try after the other: each row gets the numbers that belong to it, however fast the clicks come
    let rested = 0;
    const serve = () => {
      if (waiting && answers(waiting.asked)) { waiting.done(facts()); waiting = null; rested = 0; }
      if (waiting) { rested = busy() ? 0 : rested || Date.now(); if (rested && Date.now() - rested > PATIENCE) { waiting.done(null); waiting = null; rested = 0; } }
      if (!waiting && queue.length) { waiting = queue.shift(); rested = 0; ask(waiting.name); }
    };
    const skills = () => {  // the plan that stands is asked many questions, once it stands
      const found = facts(), want = steps?.[at]?.stages[""];
      if (!steps?.[at]?.skills || !svl.plan || !found || found.origin !== want.origin || found.prompt !== want.prompt) return;
      const plan = svl.plan.drop.join();
      if (plan === measured) return;
      measured = plan;
      setTimeout(() => { if (at >= 0 && measured === plan && svl.plan.drop.join() === plan) trigger("pick", {}); else if (measured === plan) measured = ""; }, SETTLED);
    };
    setInterval(() => { if (at >= 0) { tell(); serve(); skills(); } }, 150);

    // ---- what comes after a guess
    const after = (step, into) => {
      if (!seen.has(at)) return;
      const text = make("p", { class: "svl-after", role: "status" });
      text.innerHTML = step.after;  // markup of the page's own texts
      into.append(text);
      if (step.plot) {
        const figure = make("div", { class: "svl-plot" });
        figure.dataset.wait = "";
        into.append(figure);
        svl.parts.plot(figure, { value: step.plot }, () => {})();
      }
      const row = make("div", { class: "svl-options" });
      (step.more ?? []).forEach(one => {
        const button = make("button", { type: "button" }, one.label);
        button.addEventListener("click", () => ask(one.do));
        row.append(button);
      });
      const there = make("button", { type: "button", class: "svl-look" }, "Show it on the page");
      there.addEventListener("click", () => look(step.shows));
      row.append(there);
      into.append(row);
    };
    const reveal = (step, into) => {
      if (seen.has(at)) return;
      seen.add(at);
      veil(false);
      after(step, into);
      if (step.do !== undefined && !waiting && !queue.length) ask(step.do);  // what is being tried goes first
      look(step.shows);
      if (presenting) { show(false); panel.querySelector(".svl-next").focus({ preventScroll: true }); }
    };

    // ---- what a step asks for
    const choices = (step, into, tail) => {
      into.append(make("p", { class: "svl-question" }, step.question));
      const said = make("p", { class: "svl-said", role: "status" });
      const row = make("div", { class: "svl-options" });
      const mark = () => row.querySelectorAll("button").forEach((b, k) => { if (step.options[k].right) { b.className = "right"; b.textContent = `✓ ${step.options[k].label}`; } });
      step.options.forEach(option => {
        const button = make("button", { type: "button" }, option.label);
        button.addEventListener("click", () => {
          button.className = option.right ? "right" : "wrong";
          button.textContent = `${option.right ? "✓" : "✗"} ${option.label}`;
          said.textContent = `${option.right ? "Right." : "Not quite."} ${option.say}`;
          if (!option.right) mark();
          if (option.do !== undefined && seen.has(at)) ask(option.do);
          reveal({ ...step, do: option.do ?? step.do }, tail);
        });
        row.append(button);
      });
      into.append(row, said);
      if (seen.has(at)) mark();
    };
    const guesses = (step, into, tail) => {
      const row = make("div", { class: "svl-guess", role: "group", "aria-label": `Pick ${step.guess} layers` }), said = make("p", { class: "svl-said", role: "status" }, `${step.guess} to pick.`);
      const look = make("button", { type: "button", class: "svl-look" }, "Reveal");
      const mine = new Set(), truth = new Set(step.truth);
      const told = () => {
        [...row.children].forEach((cell, k) => {
          if (truth.has(k)) { cell.classList.add("gone"); cell.textContent = mine.has(k) ? `✓${k}` : `${k}`; } else if (mine.has(k)) { cell.classList.add("wrong"); cell.textContent = `✗${k}`; }
        });
        const hits = [...mine].filter(k => truth.has(k)).length;
        said.textContent = `The ${step.guess} that turn least here are ${step.truth.join(", ")}.${mine.size ? ` You found ${hits} of ${step.guess}.` : ""}`;
        look.remove();
      };
      for (let k = 0; k < step.layers; k++) {
        const cell = make("button", { type: "button", "aria-pressed": "false", "aria-label": `Layer ${k}` }, String(k));
        if (step.fixed.includes(k)) { cell.disabled = true; cell.title = "Always kept"; }
        cell.addEventListener("click", () => {
          if (seen.has(at)) return;
          mine.has(k) ? mine.delete(k) : mine.size < step.guess && mine.add(k);
          cell.setAttribute("aria-pressed", String(mine.has(k)));
          said.textContent = mine.size < step.guess ? `${step.guess - mine.size} more to pick.` : "Now reveal.";
        });
        row.append(cell);
      }
      look.addEventListener("click", () => { told(); reveal(step, tail); });
      into.append(row, said, look);
      if (seen.has(at)) told();
    };
    const tries = (step, into, tail) => {
      if (step.question) into.append(make("p", { class: "svl-question" }, step.question));
      const row = make("div", { class: "svl-options" }), table = make("table", { class: "svl-log" }), body = make("tbody");
      table.append(make("caption", {}, "Measured on this picture, now"), make("thead", {}, make("tr", {}, ...[step.tried, "Agreement", "KL"].map(name => make("th", { scope: "col" }, name)))), body);
      step.tries.forEach(one => {
        const button = make("button", { type: "button" }, one.label);
        button.addEventListener("click", () => {
          [...body.children].filter(r => r.dataset.name === one.do).forEach(r => r.remove());
          const line = make("tr", { "data-name": one.do }, make("th", { scope: "row" }, one.label), make("td", {}, "…"), make("td", {}, "…"));
          body.append(line);
          queue = queue.filter(other => other.name !== one.do);
          queue.push({ name: one.do, asked: step.stages[one.do], done: found => {
            line.children[1].textContent = found ? `${(100 * found.agreement).toFixed(0)} %` : "–";
            line.children[2].textContent = found ? (+found.kl).toFixed(3) : "–";
          } });
          serve();
        });
        row.append(button);
      });
      const more = make("button", { type: "button", class: "svl-look" }, step.reveal);
      more.addEventListener("click", () => { more.remove(); reveal(step, tail); });
      into.append(row, table);
      if (!seen.has(at)) into.append(more);
    };
    const terms = (step, into) => {
      const drawing = make("div", { class: "svl-drawing" });
      drawing.innerHTML = step.drawing;  // markup of the page's own
      const list = make("div", { class: "svl-terms" });
      step.terms.forEach(term => {
        const button = make("button", { type: "button", "aria-pressed": "false" }, make("b", {}, term.term), `: ${term.means}`);
        const on = () => { list.querySelectorAll("button").forEach(b => b.setAttribute("aria-pressed", String(b === button))); light(term); };
        for (const event of ["click", "focus", "pointerenter"]) button.addEventListener(event, on);
        list.append(button);
      });
      into.append(drawing, list);
    };
    const bars = step => {
      const value = state.value?.skills, plan = svl.plan?.drop.join();
      const part = make("div", { class: "svl-skills" }), same = value && value.drop.join() === plan;
      part.append(make("p", { class: "svl-who" }, same ? `Asked just now, without ${plan ? names(plan) : "no layer: all are there"}` : "Asking …"));
      (value?.rows ?? step.skills.map(name => [name, 0, 0])).forEach(([name, right, of]) => part.append(make("div", { class: same ? "skill" : "skill old" }, make("b", {}, name), make("i", { style: `--v:${of ? right / of : 0}`, "aria-hidden": "true" }), make("span", {}, of ? `${right} of ${of}` : "…"))));
      return part;
    };

    const show = focus => {
      if (at < 0 || !steps) return;
      const step = steps[at], told = seen.has(at);
      asked ??= step.stages[""];
      panel.hidden = false;
      panel.classList.toggle("small", small);
      panel.classList.toggle("told", told);
      veil(!!step.veil && !told);
      fit();
      const named = make("small", {}, `${presenting ? "" : "Lesson, "}step ${at + 1} of ${steps.length}`);
      const title = make("h2", { tabindex: "-1" }, named, presenting && told ? step.line : step.title);
      const close = make("button", { type: "button", class: "svl-close", "aria-label": "Leave the lesson", title: "Leave the lesson (Escape)" }, "✕");
      const hall = make("button", { type: "button", class: "svl-hall", "aria-pressed": String(presenting), "aria-label": "Presenter mode: one line, large type", title: "Presenter mode: one line, large type; PageDown and PageUp change the step" }, "▭");
      const fold = make("button", { type: "button", class: "svl-fold", "aria-label": "Fold the lesson down", "aria-expanded": String(!small) }, small ? "▲" : "▼");
      fold.addEventListener("click", () => { small = !small; panel.classList.toggle("small", small); fold.textContent = small ? "▲" : "▼"; fold.setAttribute("aria-expanded", String(!small)); });
      hall.addEventListener("click", () => { small = !presenting; present(!presenting); show(true); });
      const text = make("p", { class: "svl-text" }, step.text), main = make("div", { class: "svl-main" }), tail = make("div", { class: "svl-tail" });
      main.append(text);
      if (step.terms) terms(step, main);
      if (step.answers) { now.dataset.key = ""; main.append(now); tell(); }
      if (step.skills) main.append(bars(step));
      (step.guess ? guesses : step.tries ? tries : choices)(step, main, tail);
      main.append(tail);
      after(step, tail);
      const back = make("button", { type: "button", class: "svl-back" }, "Back"), next = make("button", { type: "button", class: "svl-next" }, at + 1 < steps.length ? "Next" : "Finish");
      const open = make("button", { type: "button", class: "svl-open" }, "Reveal");  // a lecturer's: the hall has guessed aloud
      open.addEventListener("click", () => reveal(step, tail));
      back.disabled = at === 0;
      back.addEventListener("click", () => go(at - 1));
      next.addEventListener("click", () => at + 1 < steps.length ? go(at + 1) : leave());
      const dots = make("span", { class: "svl-dots", "aria-hidden": "true" }, ...steps.map((_, k) => make("i", k === at ? { class: "on" } : {})));
      panel.replaceChildren(make("header", {}, title, hall, fold, close), main, make("footer", {}, back, dots, ...(presenting && !told ? [open] : []), next));
      close.addEventListener("click", leave);
      main.scrollTop = 0;
      if (focus) title.focus({ preventScroll: true });
      requestAnimationFrame(() => look(told ? step.shows : step.anchor));
    };
    const typed = node => node.closest?.("input, textarea, select, [role=combobox], [contenteditable]");
    document.addEventListener("keydown", event => {  // anywhere but in a field or a list, where these keys mean something else
      if (at < 0 || typed(event.target)) return;
      if (event.key === "Escape" && (panel.contains(event.target) || event.target === document.body)) { event.preventDefault(); leave(); }
      if (!presenting) return;
      if (event.key === "PageDown") { event.preventDefault(); const open = panel.querySelector(".svl-open"); open ? open.click() : at + 1 < steps.length && go(at + 1); }
      if (event.key === "PageUp" && at > 0) { event.preventDefault(); go(at - 1); }
    });
    start.addEventListener("click", () => go(0));
    const wanted = new URLSearchParams(location.search);
    if (/^[1-8]$/.test(wanted.get("lesson") ?? "")) svl.ready(() => {
      if (at >= 0) return;
      if (wanted.get("present") === "1") { small = true; present(true); }
      go(+wanted.get("lesson") - 1, false);
    });
    return () => {
      const had = steps;
      steps = state.value?.steps ?? steps;
      if (at >= 0 && steps && panel.hidden) { asked = steps[at].stages[""]; show(true); } else if (at >= 0 && steps && steps[at].skills && had) panel.querySelector(".svl-skills")?.replaceWith(bars(steps[at]));
    };
  };

  // Runs `then` once the page's first analysis is there, so that leaving the lesson can bring it back.
  svl.ready = then => {
    const there = () => document.querySelector("#metrics .facts");
    if (there()) return then();
    const watch = new MutationObserver(() => { if (there()) { watch.disconnect(); then(); } });
    watch.observe(document.body, { childList: true, subtree: true });
  };
})();
