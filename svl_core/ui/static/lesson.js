// The guided lesson: a panel beside the page (below it on a phone). Python brings the steps and puts the page into each step's state;
// here they are shown, guesses are taken, and nothing is told before a guess or a wish to see.
(() => {
  "use strict";
  const { make } = svl;
  const address = change => {
    const query = new URLSearchParams(location.search);
    change(query);
    history.replaceState(history.state, "", `${location.pathname}${query.size ? "?" + query : ""}`);
  };

  svl.parts.lesson = (box, state, trigger) => {
    let at = -1, seen = new Set(), tried = [], steps = null, small = false;
    const start = make("button", { type: "button", class: "svl-start" }, "Take the lesson: six short steps");
    const panel = make("section", { class: "svl-panel", role: "complementary", "aria-label": "Lesson" });
    panel.hidden = true;
    box.append(start, panel);

    const go = (to, focus = true) => {
      at = to; tried = [];
      address(query => query.set("lesson", at + 1));
      document.body.classList.add("svl-taught");
      start.hidden = true;
      trigger("step", { step: at });
      show(focus);
    };
    const leave = () => {
      at = -1; seen = new Set();
      address(query => query.delete("lesson"));
      document.body.classList.remove("svl-taught");
      document.querySelectorAll(".svl-pointed").forEach(n => n.classList.remove("svl-pointed"));
      panel.hidden = true; start.hidden = false;
      trigger("step", { step: -1 });
      start.focus({ preventScroll: true });
    };
    const look = anchor => {
      const node = document.querySelector(anchor);
      if (!node) return;
      const top = node.getBoundingClientRect().top + scrollY - (innerWidth > 900 ? 190 : 70);
      scrollTo({ top, behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
      document.querySelectorAll(".svl-pointed").forEach(n => n.classList.remove("svl-pointed"));
      node.classList.add("svl-pointed");
    };
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
      into.append(make("button", { type: "button", class: "svl-look" }, "Show it on the page"));
      into.lastChild.addEventListener("click", () => look(step.anchor));
    };
    const reveal = (step, into) => {
      if (seen.has(at)) return;
      seen.add(at);
      after(step, into);
      if (step.do) trigger("step", { step: at, do: step.do });
    };

    // ---- what a step asks for
    const choices = (step, into, tail) => {
      into.append(make("p", { class: "svl-question" }, step.question));
      const said = make("p", { class: "svl-said", role: "status" });
      const row = make("div", { class: "svl-options" });
      step.options.forEach(option => {
        const button = make("button", { type: "button" }, option.label);
        button.addEventListener("click", () => {
          button.className = option.right ? "right" : "wrong";
          button.textContent = `${option.right ? "✓" : "✗"} ${option.label}`;
          said.textContent = `${option.right ? "Right." : "Not quite."} ${option.say}`;
          if (!option.right) row.querySelectorAll("button").forEach((b, k) => { if (step.options[k].right) { b.className = "right"; b.textContent = `✓ ${step.options[k].label}`; } });
          reveal(step, tail);
        });
        row.append(button);
      });
      into.append(row, said);
    };
    const guesses = (step, into, tail) => {
      const row = make("div", { class: "svl-guess", role: "group", "aria-label": `Pick ${step.guess} layers` }), said = make("p", { class: "svl-said", role: "status" }, `${step.guess} to pick.`);
      const look = make("button", { type: "button", class: "svl-look" }, "Reveal");
      const plan = svl.plan, count = plan ? plan.ids.length : 16, mine = new Set();
      for (let k = 0; k < count; k++) {
        const cell = make("button", { type: "button", "aria-pressed": "false", "aria-label": `Layer ${k}` }, String(k));
        if (plan?.protected.includes(k)) cell.disabled = true;
        cell.addEventListener("click", () => {
          if (seen.has(at)) return;
          mine.has(k) ? mine.delete(k) : mine.size < step.guess && mine.add(k);
          cell.setAttribute("aria-pressed", String(mine.has(k)));
          said.textContent = mine.size < step.guess ? `${step.guess - mine.size} more to pick.` : "Now reveal.";
        });
        row.append(cell);
      }
      look.addEventListener("click", () => {
        const truth = (svl.plan?.ranking || []).slice(0, step.guess), hits = [...mine].filter(k => truth.includes(k)).length;
        [...row.children].forEach((cell, k) => {
          if (truth.includes(k)) { cell.classList.add("gone"); cell.textContent = mine.has(k) ? `✓${k}` : `${k}`; } else if (mine.has(k)) { cell.classList.add("wrong"); cell.textContent = `✗${k}`; }
        });
        said.textContent = `The ${step.guess} most redundant layers here are ${[...truth].sort((a, b) => a - b).join(", ")}. You found ${hits} of ${step.guess}.`;
        look.remove();
        reveal(step, tail);
      });
      into.append(row, said, look);
    };
    const tries = (step, into, tail) => {
      const row = make("div", { class: "svl-options" }), table = make("table", { class: "svl-log" }), body = make("tbody");
      table.append(make("caption", {}, "On this picture"), make("thead", {}, make("tr", {}, ...["Compensation", "KL", "Agreement"].map(name => make("th", { scope: "col" }, name)))), body);
      step.tries.forEach(one => {
        const button = make("button", { type: "button" }, one.label);
        button.addEventListener("click", () => {
          tried.push(one.label);
          const line = make("tr", {}, make("th", { scope: "row" }, one.label), make("td", {}, "…"), make("td", {}, "…"));
          [...body.children].filter(r => r.firstChild.textContent === one.label).forEach(r => r.remove());
          body.append(line);
          const facts = () => document.querySelector("#metrics .facts");
          const old = facts();
          const watch = new MutationObserver(() => {
            const now = facts();
            if (!now || now === old) return;
            watch.disconnect();
            line.children[1].textContent = (+now.dataset.kl).toFixed(3);
            line.children[2].textContent = `${(100 * now.dataset.agreement).toFixed(0)} %`;
          });
          watch.observe(document.querySelector("#metrics"), { childList: true, subtree: true });
          trigger("step", { step: at, do: one.do });
        });
        row.append(button);
      });
      const more = make("button", { type: "button", class: "svl-look" }, step.reveal);
      more.addEventListener("click", () => { more.remove(); reveal(step, tail); });
      into.append(row, table, more);
    };

    const show = focus => {
      if (at < 0 || !steps) return;
      const step = steps[at];
      panel.hidden = false;
      const title = make("h2", { tabindex: "-1" }, make("small", {}, `Lesson, step ${at + 1} of ${steps.length}`), step.title);
      const close = make("button", { type: "button", class: "svl-close", "aria-label": "Leave the lesson", title: "Leave the lesson (Escape)" }, "✕");
      const fold = make("button", { type: "button", class: "svl-fold", "aria-label": "Fold the lesson down", "aria-expanded": String(!small) }, small ? "▲" : "▼");
      fold.addEventListener("click", () => { small = !small; panel.classList.toggle("small", small); fold.textContent = small ? "▲" : "▼"; fold.setAttribute("aria-expanded", String(!small)); });
      const text = make("p", { class: "svl-text" }, step.text), main = make("div", { class: "svl-main" }), tail = make("div", { class: "svl-tail" });
      main.append(text);
      (step.guess ? guesses : step.tries ? tries : choices)(step, main, tail);
      main.append(tail);
      after(step, tail);
      const back = make("button", { type: "button" }, "Back"), next = make("button", { type: "button", class: "svl-next" }, at + 1 < steps.length ? "Next" : "Finish");
      back.disabled = at === 0;
      back.addEventListener("click", () => go(at - 1));
      next.addEventListener("click", () => at + 1 < steps.length ? go(at + 1) : leave());
      const dots = make("span", { class: "svl-dots", "aria-hidden": "true" }, ...steps.map((_, k) => make("i", k === at ? { class: "on" } : {})));
      panel.replaceChildren(make("header", {}, title, fold, close), main, make("footer", {}, back, dots, next));
      close.addEventListener("click", leave);
      main.scrollTop = 0;
      if (focus) title.focus({ preventScroll: true });
      look(step.anchor);
    };
    document.addEventListener("keydown", event => {  // anywhere but in a field or a list, where Escape means something else
      if (event.key === "Escape" && at >= 0 && (panel.contains(event.target) || event.target === document.body)) { event.preventDefault(); leave(); }
    });
    start.addEventListener("click", () => go(0));
    const asked = Number(new URLSearchParams(location.search).get("lesson"));
    if (Number.isInteger(asked) && asked >= 1 && asked <= 6) svl.ready(() => { if (at < 0) go(asked - 1, false); });
    return () => {
      steps = state.value?.steps ?? steps;
      if (at >= 0 && steps && panel.hidden) { panel.hidden = false; show(true); }
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
