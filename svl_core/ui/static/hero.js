// The hero: the picture, the decoder and both answers on one screen. It is drawn from what was
// prepared until the model answers, and by the same functions afterwards.
(() => {
  "use strict";
  const { make, parts } = svl;
  const TIGHT = 20;  // layers from which their numbers stand sideways: upright they would be cut off
  const MANY = 40;  // layers from which they carry no numbers
  const percent = share => `${(100 * share).toFixed(2)}%`;

  // ---------------------------------------------------------------- the picture and the question
  parts.asked = (box, state) => {
    const frame = make("div", { class: "hero-picture" }), words = make("p", { class: "hero-words" });
    box.append(frame, words);
    return () => {
      const value = state.value;
      box.classList.toggle("empty", !value);
      if (!value) return;
      frame.replaceChildren();
      frame.hidden = !value.src;
      if (value.src) frame.append(make("img", { src: value.src, alt: value.alt }));
      (value.patches ?? []).forEach(([left, top, right, bottom, share]) => frame.append(make("i", {
        style: `left:${percent(left)};top:${percent(top)};width:${percent(right - left)};height:${percent(bottom - top)};--veil:${(1 - share).toFixed(3)}`,
      })));
      words.replaceChildren(...value.words.map(([text, share, counts]) =>
        make("span", { class: counts ? "counts" : "", style: `--v:${share}` }, text)));
    };
  };

  // ---------------------------------------------------------------- the decoder
  const runs = drop => drop.reduce((found, layer) => {
    const last = found.at(-1);
    last && last.at(-1) === layer - 1 ? last.push(layer) : found.push([layer]);
    return found;
  }, []);
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

  parts.decoder = (box, state, trigger, planOf = null) => {
    const listens = planOf === null;
    planOf ??= () => svl.plan;
    const head = make("p", { class: "hero-count" });
    const stack = make("div", { class: "hero-stack" });
    const tokens = make("div", { class: "hero-streams", "aria-hidden": "true" },
      make("b", {}, "image"), make("i", {}), make("b", {}, "words"), make("i", {}));
    const gaps = make("div", { class: "hero-gaps", "aria-hidden": "true" });
    const layers = make("div", { class: "hero-layers", role: "group", "aria-label": "The decoder: its layers from the first to the last" });
    const key = make("p", { class: "hero-key" });
    key.innerHTML = "<span><i class=k></i>how much a layer changes the features: <b>low is redundant</b></span><span><i class=d></i>the gap it leaves</span><span class=narrow><i class=g></i>dropped</span><span class=narrow><i class=f></i>protected</span>";
    stack.append(tokens, gaps, layers);
    box.append(head, stack, key);
    let focus = 0;
    const press = layer => document.querySelector(`#strip .cells button[data-k="${layer}"]`)?.click();
    layers.addEventListener("click", event => {
      const cell = event.target.closest("button");
      if (cell) { focus = +cell.dataset.layer; press(focus); }
    });
    layers.addEventListener("keydown", event => {
      const last = layers.children.length - 1;
      const to = { ArrowRight: focus + 1, ArrowLeft: focus - 1, Home: 0, End: last }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      focus = Math.max(0, Math.min(last, to));
      [...layers.children].forEach((cell, k) => { cell.tabIndex = k === focus ? 0 : -1; });
      layers.children[focus].focus();
    });
    const draw = () => {
      const value = state.value, plan = planOf();
      box.classList.toggle("empty", !plan);
      if (!plan) return;
      const count = plan.ids.length;
      if (layers.children.length !== count) {
        layers.replaceChildren(...plan.ids.map((id, k) => make("button", { type: "button", class: "hero-layer", "data-layer": k, tabindex: k ? -1 : 0 }, make("i", {}), make("b", {}, String(id)))));
        focus = 0;
      }
      layers.classList.toggle("tight", count > TIGHT);
      layers.classList.toggle("many", count > MANY);
      const change = value?.change?.length === count ? value.change : null;
      plan.ids.forEach((id, k) => {
        const cell = layers.children[k], gone = plan.drop.includes(k), fixed = plan.protected.includes(k);
        cell.className = `hero-layer ${fixed ? "fixed" : gone ? "gone" : "kept"}`;
        cell.style.setProperty("--change", change ? change[k] : 0);
        cell.setAttribute("aria-pressed", String(gone));
        if (fixed) cell.setAttribute("aria-disabled", "true"); else cell.removeAttribute("aria-disabled");
        const cosine = value?.cosines?.length === count ? `, cosine ${value.cosines[k].toFixed(3)}` : "";
        const said = `Layer ${id}: ${fixed ? "protected, always kept" : gone ? "dropped" : "kept"}${cosine}`;
        cell.setAttribute("aria-label", said);
        cell.title = said;
      });
      const kept = count - plan.drop.length;
      head.replaceChildren(make("b", {}, String(kept)), plan.drop.length ? ` of ${count} decoder layers are left` : " decoder layers, none dropped");
      const known = same(value?.drop, plan.drop) ? value.gaps : null;
      gaps.replaceChildren(...runs(plan.drop).map((run, number) => {
        const gap = known?.[number];
        return make("span", { style: `left:${percent(run[0] / count)};width:${percent(run.length / count)}` }, gap === undefined ? "" : make("em", {}, run.length > 2 ? `gap ${gap.toFixed(2)}` : gap.toFixed(2)));
      }));
    };
    if (listens) document.addEventListener("svl-plan", draw);
    return draw;
  };

  // ---------------------------------------------------------------- what was prepared, before the model is there
  const source = document.getElementById("svl-prepared");
  const prepared = source ? JSON.parse(source.textContent) : null;
  const query = new URLSearchParams(location.search);
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

  const planFor = count => svl.dropping(prepared.strip, svl.chosen(prepared.strip, count));
  // the count that an address asks for where it is the prepared example's own, null where it asks for anything else
  const countAsked = () => {
    if (!prepared) return null;
    for (const [name, value] of query) {
      if (svl.displayed.includes(name) || name === "drop") continue;
      if (prepared.address[name] !== value) return null;
    }
    if (!query.has("drop")) return prepared.count;
    const asked = query.get("drop") === "none" ? [] : query.get("drop").split(",").map(Number);
    return asked.length < prepared.answers.length && same(planFor(asked.length).drop, asked) ? asked.length : null;
  };
  const layersFor = count => ({ ...prepared.layers, drop: planFor(count).drop, gaps: prepared.gaps[count] });

  svl.hero = {};
  const glanceBox = () => document.querySelector("#glance .svl-view");
  const answersBox = () => document.querySelector("#hero-answers .svl-view");

  // The first screen, before gradio has drawn anything: its parts, with a slider of its own.
  const first = opened => {
    const page = make("div", { id: "svl-first" });
    const title = make("div", { class: "first-head" });
    title.innerHTML = prepared.head;
    const hero = make("div", { class: "hero-row" });
    const asked = make("div", { class: "svl-asked" }), decoder = make("div", { class: "svl-decoder" }), answers = make("div", { class: "svl-view" });
    hero.append(asked, decoder, answers);
    const most = prepared.answers.length - 1;
    const knob = make("input", { type: "range", min: 0, max: most, value: opened, "aria-label": "Layers to drop" });
    const number = make("output", {});
    const strip = make("div", { class: "first-cells", "aria-hidden": "true" });
    const glance = make("div", { class: "first-glance" });
    const line = make("p", { class: "first-line" }, "The live model is on its way; what you see was computed with it before.");
    const dock = make("div", { class: "first-dock" }, glance, make("label", {}, make("span", {}, "Layers to drop", number), knob), make("div", {}, strip, line));
    page.append(title, hero, dock);
    let count = opened, plan = planFor(count);
    svl.hero.moved = opened !== prepared.count;
    const shown = { value: layersFor(count) };
    const drawAsked = parts.asked(asked, { value: prepared.asked });
    const drawLayers = parts.decoder(decoder, shown, () => {}, () => plan);
    const show = to => {
      count = to; plan = planFor(count); shown.value = layersFor(count);
      knob.value = count; number.textContent = String(count);
      answers.innerHTML = prepared.answers[count];
      glance.innerHTML = prepared.glances[count];
      strip.replaceChildren(...plan.ids.map((id, k) => make("i", { class: plan.protected.includes(k) ? "fixed" : plan.drop.includes(k) ? "gone" : "kept" }, String(id))));
      drawLayers();
    };
    knob.addEventListener("input", () => { svl.hero.moved = true; show(+knob.value); });
    drawAsked();
    show(count);
    svl.hero.count = () => count;
    return page;
  };

  const put = opened => {
    const page = first(opened);
    document.documentElement.append(page);
    const theme = query.get("__theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    if (theme === "dark") page.classList.add("dark");
    // gradio's own parts take over once they stand where these do
    const here = () => document.querySelector("#hero .hero-layer") && document.querySelector("#drop input[type=range]") && document.querySelector("#hero .hero-answer");
    const look = new MutationObserver(() => {
      if (!here()) return;
      look.disconnect();
      requestAnimationFrame(() => {
        const count = svl.hero.count(), moved = svl.hero.moved;
        page.remove();
        document.documentElement.classList.add("svl-taken");
        if (moved) slideTo(count); else if (!still) play();
      });
    });
    look.observe(document.documentElement, { childList: true, subtree: true });
  };

  // ---------------------------------------------------------------- the slider moves once by itself
  const knobOf = () => document.querySelector("#drop input[type=range]");
  const slideTo = count => {
    const knob = knobOf();
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(knob, count);
    knob.dispatchEvent(new Event("input", { bubbles: true }));
  };
  // A slider that was moved before the first analysis was there: its plan is made then.
  let wished = null;
  const wish = event => { if (event.target.closest?.("#drop")) wished = +event.target.value; };
  document.addEventListener("input", wish);
  document.addEventListener("svl-analysed", () => {
    document.removeEventListener("input", wish);
    const planned = () => +knobOf()?.value === wished && svl.plan?.drop.length === wished;
    setTimeout(() => { if (wished !== null && !planned()) slideTo(wished); }, 400);
  }, { once: true });
  const TOUCHES = ["pointerdown", "keydown", "wheel", "touchstart"];
  const play = () => {
    const knob = knobOf(), home = prepared.count;
    if (+knob.value !== home || window.scrollY > 80) return;
    let timer = 0, ended = false;
    const show = count => {
      const plan = planFor(count);
      knob.value = count;
      knob.style.setProperty("--range_progress", percent(count / +knob.max));
      svl.showPlan(plan);
      answersBox().innerHTML = prepared.answers[count];
      glanceBox().innerHTML = prepared.glances[count];
    };
    const end = () => {
      if (ended) return;
      ended = true;
      clearTimeout(timer);
      TOUCHES.forEach(name => document.removeEventListener(name, end, true));
      knob.value = home;
      knob.style.setProperty("--range_progress", percent(home / +knob.max));
      svl.showPlan();
      answersBox().redraw();
      glanceBox().redraw();
      document.documentElement.dataset.svlPlayed = "1";
    };
    TOUCHES.forEach(name => document.addEventListener(name, end, { capture: true, passive: true }));
    const path = [...Array(home + 1).keys()];
    const next = () => {
      if (ended) return;
      if (!path.length) return end();
      const count = path.shift();
      show(count);
      timer = setTimeout(next, count ? 420 : 1100);
    };
    timer = setTimeout(next, 900);
  };

  // ---------------------------------------------------------------- the settings behind one button, on a narrow screen
  parts.sheet = box => {
    const button = make("button", { type: "button", class: "svl-start", "aria-expanded": "false", "aria-controls": "settings" }, "Settings");
    const set = open => {
      document.body.classList.toggle("svl-sheet", open);
      button.setAttribute("aria-expanded", String(open));
      button.textContent = open ? "Done" : "Settings";
    };
    button.addEventListener("click", () => set(!document.body.classList.contains("svl-sheet")));
    document.addEventListener("keydown", event => { if (event.key === "Escape" && document.body.classList.contains("svl-sheet")) { set(false); button.focus(); } });
    box.append(button);
    return () => {};
  };

  const opened = countAsked();
  if (opened !== null) put(opened);
  else if (query.size) {  // a link of something else: what the page begins with is not it
    document.documentElement.classList.add("svl-awaits");
    document.addEventListener("svl-analysed", () => document.documentElement.classList.remove("svl-awaits"), { once: true });
    setTimeout(() => document.documentElement.classList.remove("svl-awaits"), 60_000);
  }
  addEventListener("scroll", () => document.body?.classList.toggle("svl-past-hero", scrollY > (document.getElementById("hero")?.getBoundingClientRect().bottom ?? 0) + scrollY - 120), { passive: true });
})();
