// Share: the page's address holds what is shown, see `parts.link`. A phone offers its own sheet; elsewhere the link is copied.
(() => {
  "use strict";
  const SHOWN = 2500;  // ms that a word of success stays
  const UNSEEN = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)";
  const said = svl.make("p", { style: UNSEEN, role: "status" });
  const put = () => document.body.append(said);
  document.body ? put() : document.addEventListener("DOMContentLoaded", put);

  const tell = (button, text) => {
    const word = button.querySelector("b");
    said.textContent = text;
    word.textContent = text;
    setTimeout(() => { word.textContent = "Share"; said.textContent = ""; }, SHOWN);
  };
  const copied = async text => {
    try { await navigator.clipboard.writeText(text); return true; } catch { /* no such right, or no secure address */ }
    const field = svl.make("textarea", { style: UNSEEN, "aria-hidden": "true" });
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  };
  document.addEventListener("click", async event => {
    const button = event.target.closest?.("[data-share]");
    if (!button) return;
    if (navigator.share && matchMedia("(pointer: coarse)").matches) {
      try { await navigator.share({ title: document.title, url: location.href }); return tell(button, "Shared"); }
      catch (error) { if (error.name === "AbortError") return; }
    }
    tell(button, await copied(location.href) ? "Link copied" : "Copy the address above");
  });
})();
