// The page's parts: each gr.HTML mounts one of these on its element and redraws when Python changes its value.
// Text reaches the document through textContent, or through markup that Python has escaped.
(() => {
  "use strict";
  const parts = {};
  let library = null;

  // plotly comes from this page's own server, once: while the model loads, or when the first figure is drawn.
  const plotly = () => library ??= new Promise((done, fail) => {
    if (window.Plotly) return done(window.Plotly);
    const script = document.createElement("script");
    const root = (window.gradio_config?.root || "").replace(/\/$/, "");
    script.src = `${root}/gradio_api/file=${document.querySelector("meta[name=svl-plotly]").content}`;
    script.onload = () => done(window.Plotly);
    script.onerror = () => { library = null; fail(new Error("The figures' library did not load; reload the page.")); };
    document.head.append(script);
  });
  setTimeout(() => plotly().catch(() => {}), 1000);

  const ink = (name, fallback) => getComputedStyle(document.body).getPropertyValue(name).trim() || fallback;
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== undefined) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };

  // gradio may add this script before the body is there, or after the document has been read
  const watching = (react, options) => document.body ? new MutationObserver(react).observe(document.body, options) : document.addEventListener("DOMContentLoaded", () => watching(react, options));
  // it calls its upload buttons otherwise than they read; who speaks to the page says what is read there
  watching(() => document.querySelectorAll("button[aria-dropeffect][aria-label]").forEach(button => button.removeAttribute("aria-label")), { childList: true, subtree: true, attributeFilter: ["aria-label"] });

  const themed = new Set();
  const retheme = () => themed.forEach(redraw => redraw());
  let dark = null;
  watching(() => { if (dark !== (dark = document.body.classList.contains("dark"))) retheme(); }, { attributes: true, attributeFilter: ["class"] });

  // ---------------------------------------------------------------- figures
  const axes = layout => Object.keys(layout).filter(key => /^[xy]axis\d*$/.test(key)).map(key => layout[key]);

  // the numbers behind a figure, as rows of text; a trace's meta {x, y} says what it stands for where it is drawn otherwise, a layout's meta.pairs that x is a value too
  const rows = figure => {
    const out = [], title = axis => figure.layout?.[axis]?.title?.text ?? axis[0];
    let head = "";
    for (const trace of figure.data) {
      if (trace.hoverinfo === "skip") continue;
      if (trace.type === "heatmap") {
        out.push([[title("yaxis"), title("xaxis")].filter(Boolean).join(" / "), ...(trace.meta?.x ?? trace.x).map(String)]);
        trace.z.forEach((line, k) => out.push([String((trace.meta?.y ?? trace.y)[k]), ...Array.from(line, v => v === null || Number.isNaN(v) ? "" : (+v).toFixed(3))]));
      } else {
        const xs = Array.from(trace.meta?.x ?? trace.x ?? []), ys = Array.from(trace.meta?.y ?? trace.y ?? []), name = trace.name?.replaceAll("<br>", " ") || title("yaxis") || "value", pairs = figure.layout?.meta?.pairs;
        const names = trace.type === "bar" ? xs.map((x, k) => [].concat(trace.customdata?.[k] ?? x).join(" ")) : xs.map(x => typeof x === "number" ? String(+x.toFixed(3)) : String(x));
        const above = [pairs ? `${name}, ${title("xaxis")}` : title("xaxis") || "x", ...names];
        if (head !== (head = above.join("\t"))) out.push(above);  // the same layers again need no line of their own
        out.push([pairs ? `${name}, ${title("yaxis")}` : name, ...ys.map(v => v === null || Number.isNaN(v) ? "" : typeof v === "number" ? String(+v.toFixed(4)) : String(v))]);
      }
    }
    return out;
  };

  const folded = (name, most) => name.split(" ").reduce((lines, word) => lines.length && `${lines.at(-1)} ${word}`.length <= most ? [...lines.slice(0, -1), `${lines.at(-1)} ${word}`] : [...lines, word], []).join("<br>");

  const enlarge = (node, by) => {  // every type size, the marks, and the height and head of a figure
    for (const [key, value] of Object.entries(node)) {
      if (value === null || typeof value !== "object" || ArrayBuffer.isView(value)) continue;
      if (/font$/.test(key)) value.size = (value.size ?? 12) * by;
      else if (key === "marker" && typeof value.size === "number") value.size *= by;
      if (!Array.isArray(value) || typeof value[0] === "object") enlarge(value, by);
    }
    for (const key of ["height", "yshift"]) if (typeof node[key] === "number") node[key] *= by;
    if (node.margin) node.margin.t *= by;
  };

  parts.plot = (box, state, trigger) => {
    const canvas = make("div", { class: "svl-canvas", role: "img" });
    const waiting = make("p", { class: "svl-wait" }, box.dataset.wait);
    const table = make("details", { class: "svl-numbers" }, make("summary", {}, "Numbers"), make("div", { class: "svl-scroll", tabindex: "0", role: "region", "aria-label": `Numbers of ${box.closest("[id^=plot-], #token-curve, #lesson")?.id.replace("plot-", "") || "the figure"}` }));
    table.hidden = true;
    box.append(waiting, canvas, table);
    let hooked = false, latest = null;
    table.addEventListener("toggle", () => fill());
    const fill = () => {
      if (!table.open || !latest) return;
      const read = decoded => make("table", {}, ...rows(decoded).map(line => make("tr", {}, ...line.map((cell, k) => make(k ? "td" : "th", k ? {} : { scope: "row" }, cell)))));
      table.lastChild.replaceChildren(read({ layout: latest.layout, data: canvas._fullData?.length ? canvas.data.map((t, k) => ({ ...t, x: canvas._fullData[k].x ?? t.x, y: canvas._fullData[k].y ?? t.y, z: canvas._fullData[k].z ?? t.z })) : latest.data }));
    };
    const draw = async () => {
      const value = state.value?.figure ? state.value : null;  // an unopened fold mounts with an empty value
      waiting.hidden = !!value; canvas.hidden = !value; table.hidden = !value;
      if (!value) return;
      const figure = latest = JSON.parse(value.figure);
      canvas.setAttribute("aria-label", value.alt);
      const layout = figure.layout, text = ink("--body-text-color", "#333"), soft = ink("--body-text-color-subdued", "#666"), line = ink("--border-color-primary", "#ccc");
      layout.font = { ...layout.font, color: text };
      layout.autosize = true;
      layout.hoverlabel = { ...layout.hoverlabel, bgcolor: ink("--background-fill-primary", "#fff"), bordercolor: line, font: { ...layout.hoverlabel?.font, color: text } };
      for (const axis of axes(layout)) Object.assign(axis, { gridcolor: line, linecolor: line, tickfont: { ...axis.tickfont, color: soft } });
      if (box.clientWidth < 480) {  // a phone: legend in two columns, smaller type, long names on two lines
        layout.legend = { ...layout.legend, entrywidth: 0.5, entrywidthmode: "fraction", font: { size: 11 } };
        for (const trace of figure.data) if (trace.name) trace.name = folded(trace.name, 16);
        layout.font.size = 12;
      }
      if (svl.scale > 1) enlarge(layout, svl.scale), figure.data.forEach(trace => enlarge(trace, svl.scale));
      const P = await plotly();
      await P.react(canvas, figure.data, layout, { displayModeBar: false, responsive: true, showTips: false, doubleClick: false });
      if (!hooked) {
        hooked = true;
        canvas.on("plotly_click", event => { const p = event.points[0]; trigger("pick", { x: p.x, y: p.y, data: p.customdata ?? null }); });
        new ResizeObserver(() => { if (canvas.offsetParent) P.Plots.resize(canvas); }).observe(box);
      }
      fill();
    };
    themed.add(draw);
    return draw;
  };

  // ---------------------------------------------------------------- markup from Python (escaped there)
  parts.view = (box, state, trigger) => {
    const pick = node => trigger(node.dataset.event || "pick", { value: node.dataset.pick });
    box.addEventListener("click", event => { const node = event.target.closest("[data-pick]"); if (node) pick(node); });
    return box.redraw = () => {
      const focus = box.contains(document.activeElement) ? document.activeElement.dataset.pick : null;
      const open = [...box.querySelectorAll("details[open]")].map(d => d.dataset.name);
      box.innerHTML = state.value || "";
      box.querySelectorAll("details").forEach(d => { if (open.includes(d.dataset.name)) d.open = true; });
      if (focus !== null) [...box.querySelectorAll("[data-pick]")].find(n => n.dataset.pick === focus)?.focus({ preventScroll: true });
    };
  };

  // ---------------------------------------------------------------- the layer strip
  const dropping = ({ __type__, ...value }, drop) => ({ ...value, drop });  // without the mark that gradio leaves after an update that changed nothing
  const chosen = (value, count) => value.blocks?.[count] ?? value.ranking.slice(0, Math.max(0, count)).sort((a, b) => a - b);  // what goes, by the ranking
  parts.strip = (box, state, trigger) => {
    let focus = 0, past = [], future = [], shown = null, ground = null;
    const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
    const put = drop => { state.value = dropping(state.value, [...drop].sort((a, b) => a - b)); draw(); if (analysed) trigger("toggle", {}); };
    const toggle = k => {
      const gone = new Set(state.value.drop);
      if (state.value.protected.includes(k)) return;
      gone.has(k) ? gone.delete(k) : gone.add(k);
      put(gone);
    };
    const tools = {
      undo: ["↶", "Undo", () => { if (past.length) { future.push(shown); const to = past.pop(); shown = to; put(to); } }],
      redo: ["↷", "Redo", () => { if (future.length) { past.push(shown); const to = future.pop(); shown = to; put(to); } }],
      ranking: ["Ranking", "Back to the ranking: drop the same number of layers, the most redundant first", () => put(chosen(state.value, state.value.drop.length))],
    };
    box.addEventListener("click", event => {
      const cell = event.target.closest("button");
      if (!cell || cell.getAttribute("aria-disabled") === "true") return;
      if (cell.dataset.tool) return tools[cell.dataset.tool][2]();
      focus = +cell.dataset.k;
      toggle(focus);
    });
    box.addEventListener("keydown", event => {
      if (event.ctrlKey || event.metaKey) {
        const tool = event.key === "z" ? (event.shiftKey ? "redo" : "undo") : event.key === "y" ? "redo" : null;
        if (tool) { event.preventDefault(); tools[tool][2](); }
        return;
      }
      if (event.target.dataset.k === undefined) return;
      const last = state.value.ids.length - 1;
      const to = { ArrowRight: focus + 1, ArrowDown: focus + 1, ArrowLeft: focus - 1, ArrowUp: focus - 1, Home: 0, End: last }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      focus = Math.max(0, Math.min(last, to));
      box.querySelectorAll(".cells button").forEach((b, k) => b.tabIndex = k === focus ? 0 : -1);
      box.querySelectorAll(".cells button")[focus].focus();
    });
    const remember = value => {  // every way of changing the plan can be undone, until another analysis
      const now = [value.ids, value.protected];
      if (!same(ground, now)) { ground = now; past = []; future = []; shown = value.drop; return; }
      if (!same(shown, value.drop)) { past.push(shown); future = []; shown = value.drop; }
    };
    const draw = (passing = null) => {  // passing: a plan that is shown for a moment, and that nothing remembers
      const value = passing ?? state.value;
      if (!value) { box.replaceChildren(make("p", { class: "svl-wait" }, "The layers appear after the analysis.")); return; }
      if (!passing) remember(value);
      window.svl.plan = value;
      focus = Math.min(focus, value.ids.length - 1);
      let group = box.querySelector(".cells");
      if (!group || group.children.length !== value.ids.length) {
        group = make("div", { class: "cells", role: "group", "aria-label": "Decoder layers, index 0 first" });
        value.ids.forEach((_, k) => group.append(make("button", { type: "button", "data-k": k })));
        group.classList.toggle("dense", value.ids.length > 48);
        group.style.setProperty("--columns", Math.ceil(value.ids.length / Math.ceil(value.ids.length / 24)));  // rows of at most 24
        const bar = make("div", { class: "tools", role: "group", "aria-label": "Plan" });
        for (const [name, [sign, said]] of Object.entries(tools)) bar.append(make("button", { type: "button", "data-tool": name, "aria-label": said, title: said }, sign));
        box.replaceChildren(group, bar);
      }
      value.ids.forEach((id, k) => {
        const cell = group.children[k], gone = value.drop.includes(k), fixed = value.protected.includes(k), rank = value.ranking.indexOf(k);
        cell.className = fixed ? "fixed" : gone ? "gone" : "kept";
        cell.textContent = id;
        cell.tabIndex = k === focus ? 0 : -1;
        cell.setAttribute("aria-pressed", String(gone));
        if (fixed) cell.setAttribute("aria-disabled", "true"); else cell.removeAttribute("aria-disabled");
        const said = fixed ? "protected, always kept" : `${gone ? "dropped" : "kept"}${rank >= 0 ? `, redundancy rank ${rank + 1}` : ""}`;
        cell.setAttribute("aria-label", `Layer ${id}: ${said}`);
        cell.title = `Layer ${id}: ${said}`;
      });
      const off = { undo: !past.length, redo: !future.length, ranking: same(chosen(value, value.drop.length), value.drop) };
      for (const b of box.querySelectorAll("[data-tool]")) b.setAttribute("aria-disabled", String(off[b.dataset.tool]));
      document.dispatchEvent(new Event("svl-plan"));
    };
    window.svl.showPlan = draw;
    return () => draw();
  };

  // ---------------------------------------------------------------- an image on which a patch can be picked
  parts.picture = (box, state, trigger) => {
    const frame = make("button", { type: "button", class: "svl-frame" }), image = make("img", {}), waiting = make("p", { class: "svl-wait" }, "Appears after the analysis.");
    frame.append(image);
    box.append(waiting, frame);
    let at = null;  // [column, row] for the keyboard
    frame.addEventListener("click", event => {
      const r = image.getBoundingClientRect();
      if (event.detail === 0 || !r.width) return;
      at = null;
      trigger("pick", { x: (event.clientX - r.left) / r.width, y: (event.clientY - r.top) / r.height });
    });
    frame.addEventListener("keydown", event => {
      const value = state.value, move = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
      if (!move || !value?.columns) return;
      event.preventDefault();
      at = at ? [Math.max(0, Math.min(value.columns - 1, at[0] + move[0])), Math.max(0, Math.min(value.rows - 1, at[1] + move[1]))] : [0, 0];
      trigger("pick", { x: (at[0] + 0.5) / value.columns, y: (at[1] + 0.5) / value.rows });
    });
    return () => {
      const value = state.value;
      waiting.hidden = !!value?.src; frame.hidden = !value?.src;
      if (!value?.src) return;
      image.src = value.src; image.alt = value.alt;
      frame.title = value.hint ?? "Click a patch, or use the arrow keys, for its importance layer by layer";
    };
  };

  // ---------------------------------------------------------------- what is read only where somebody looks
  parts.sight = (box, state, trigger) => {
    let asked = "", near = false;
    const ask = () => {
      if (!state.value) asked = "";
      else if (near && asked !== state.value) { asked = state.value; trigger("pick", { value: asked }); }
    };
    new IntersectionObserver(seen => { near = seen.at(-1).isIntersecting; ask(); }, { rootMargin: "200px 0px" }).observe(box.closest("[id^=section-]"));
    return ask;
  };

  // ---------------------------------------------------------------- the link to this very state
  // the address holds what is shown, with what the page's own scripts keep in it
  const DISPLAYED = ["__theme", "view", "type", "lesson", "present"];
  const keepAddress = text => {
    const kept = new URLSearchParams(location.search), query = new URLSearchParams(text);
    for (const name of DISPLAYED) if (kept.has(name)) query.set(name, kept.get(name));
    history.replaceState(history.state, "", `${location.pathname}?${query}`);
  };
  parts.address = (_, state) => () => { if (state.value) keepAddress(state.value); };

  parts.link = (box, state) => {
    const field = make("input", { type: "text", readonly: "", "aria-label": "Link to this analysis" }), copy = make("button", { type: "button" }, "Copy link"), hint = make("p", { class: "read", role: "status" });
    box.append(make("div", { class: "link-row" }, field, copy), hint);
    copy.addEventListener("click", async () => {
      await svl.copied(field.value);
      field.select();
      hint.textContent = "Copied.";
    });
    return () => {
      const value = state.value;
      copy.disabled = !value;
      if (!value) return;
      analysed = { prompt: new URLSearchParams(value.query).get("prompt") ?? "", path: value.path ?? "" };
      document.dispatchEvent(new Event("svl-analysed"));
      keepAddress(value.query);
      field.value = location.href;
      hint.textContent = value.own ? "The link carries the prompt and the plan; your image stays with you." : "The link opens this image, prompt, plan and settings.";
    };
  };

  // ---------------------------------------------------------------- whether the figures are those of the image and the prompt on the page
  let analysed = null;
  parts.stale = (box, state) => {
    const note = make("p", { class: "note", role: "status" });
    const check = () => {
      const shown = document.querySelector("#image .image-frame img")?.src ?? "", prompt = document.querySelector("#prompt textarea")?.value ?? "";
      const other = !!analysed && (prompt.trim() !== analysed.prompt.trim() || (analysed.path ? !decodeURIComponent(shown).endsWith(analysed.path) : !!shown));
      document.body.toggleAttribute("data-old", other);  // answers and figures are of what was asked before
      note.hidden = !other || !!document.querySelector("#status .pill");
      if (note.textContent !== (note.hidden ? "" : state.value)) note.textContent = note.hidden ? "" : state.value;
    };
    box.append(note);
    let watched = false;
    document.addEventListener("svl-analysed", () => {
      if (!watched) for (const id of ["image", "status"]) new MutationObserver(check).observe(document.getElementById(id), { childList: true, subtree: true, attributeFilter: ["src"] });
      watched = true;
      check();
    });
    document.addEventListener("input", event => { if (event.target.closest?.("#prompt")) check(); });
    return check;
  };

  // ---------------------------------------------------------------- the scene composer
  parts.composer = (box, state, trigger) => {
    const send = () => {
      const items = {};
      box.querySelectorAll("select").forEach((s, k) => { if (s.value) items[k] = s.value; });
      state.value = { ...state.value, items };
      trigger("compose", { items });
    };
    return () => {
      const value = state.value;
      if (!box.firstChild) {
        const grid = make("div", { class: "places" });
        value.places.forEach(place => {
          const select = make("select", { "aria-label": `Object in the ${place}` }, make("option", { value: "" }, "–"));
          for (const [group, names] of value.groups) select.append(make("optgroup", { label: group }, ...names.map(n => make("option", { value: n }, n))));
          select.addEventListener("change", send);
          grid.append(make("label", {}, make("span", {}, place), select));
        });
        box.append(grid);
      }
      box.querySelectorAll("select").forEach((s, k) => { s.value = value.items[k] || ""; });
    };
  };

  // Tab leaves a list at once: gradio takes the key for something typed, filters the list by it and leaves it open; the list itself is no stop on the way.
  document.addEventListener("keydown", event => {
    if (event.key !== "Tab" || !event.target.matches?.("[role=combobox]")) return;
    event.stopImmediatePropagation();
    document.getElementById(event.target.getAttribute("aria-controls"))?.setAttribute("tabindex", "-1");
  }, true);

  const SENT_AS_TEXT = ["plot", "picture", "link"];  // see parts.py
  const read = props => {
    let text = null, value = null;
    return { get value() {
      if (typeof props.value !== "string") return props.value;
      if (text !== props.value) value = (text = props.value) ? JSON.parse(text) : null;
      return value;
    } };
  };

  const REST = 250;  // ms without movement after which a slider counts as set

  window.svl = {
    parts, make, chosen, dropping, displayed: DISPLAYED, scale: 1, redraw: retheme,  // other scripts add parts of their own
    settle(ids, trigger) {
      const timers = {};
      const moved = event => {
        const id = ids.find(name => event.target.closest?.(`#${name}`));
        if (!id || (event.type === "click" && !event.target.closest("button"))) return;
        clearTimeout(timers[id]);
        timers[id] = setTimeout(() => { if (analysed) trigger(`settle_${id.replaceAll("-", "_")}`, {}); }, REST);  // earlier it would end the first analysis
      };
      document.addEventListener("input", moved);
      document.addEventListener("click", moved);
    },
    // Sections below the first screen are built one after the other while the page is idle, or at once where one scrolls or a link points.
    unfold(names, trigger) {
      const left = [...names], idle = window.requestIdleCallback ?? (work => setTimeout(work, 60));
      const next = () => { if (left.length) { trigger(`near_${left.shift()}`, {}); setTimeout(() => idle(next, { timeout: 1500 }), 30); } };
      setTimeout(() => idle(next, { timeout: 1500 }), 120);
    },
    mount(kind, element, props, watch, trigger) {
      const box = element.querySelector(`.svl-${kind}`);
      const draw = parts[kind](box, SENT_AS_TEXT.includes(kind) ? read(props) : props, trigger);
      watch("value", draw);
      draw();
    },
  };
})();
