// A server that goes away and comes back: a line says so, and the page opens again by itself, for the server has forgotten it.
// The looks tell the server that the page is open, though its connection may have dropped meanwhile; a page that closes says so.
(() => {
  "use strict";
  const OFTEN = 15_000, SOON = 3_000;  // milliseconds between two looks: while all is well, and while the server is away
  const since = Number(document.querySelector("meta[name=svl-started]").content);
  let waiting = 0, missed = 0;
  const line = svl.make("p", { id: "svl-away", role: "status", hidden: "" });

  const address = (path) => {
    const session = document.querySelector("#visit [data-session]")?.dataset.session;
    const root = (window.gradio_config?.root || "").replace(/\/$/, "");
    return `${root}/${path}${session ? `?session=${encodeURIComponent(session)}` : ""}`;
  };
  const again = () => {
    const query = new URLSearchParams(location.search), prompt = document.querySelector("#prompt textarea")?.value;
    if (prompt) query.set("prompt", prompt);  // what was typed since the last analysis
    location.assign(`${location.pathname}?${query}`);
  };
  const look = async () => {
    clearTimeout(waiting);
    let started = null;
    try {
      started = (await (await fetch(address("health"), { cache: "no-store" })).json()).started;
      missed = 0;
    } catch { missed += 1; }  // one miss may be a hiccup
    if (started !== null && started !== since) return again();
    if (!line.isConnected) document.body.append(line);  // gradio empties the body when it starts
    line.hidden = missed < 2;
    line.textContent = missed < 2 ? "" : "The server is away. This page opens again by itself when it is back.";
    waiting = setTimeout(look, missed ? SOON : OFTEN);
  };
  waiting = setTimeout(look, SOON);
  window.addEventListener("pagehide", (event) => { if (!event.persisted) navigator.sendBeacon(address("closed")); });
  window.addEventListener("online", look);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
})();
