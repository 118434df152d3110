// Share: the page's address holds what is shown, see `parts.address`. A phone offers its own sheet; elsewhere the link is copied.
(() => {
  "use strict";
  const SHOWN = 2500;  // ms that a word of success stays
  const UNSEEN = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)";
  const said = svl.make("p", { class: "svl-toast", role: "status" });  // the buttons are drawn anew with the answers
  const put = () => document.body.append(said);
  document.body ? put() : document.addEventListener("DOMContentLoaded", put);

  let timer = 0;
  const tell = text => {
    said.textContent = text;
    clearTimeout(timer);
    timer = setTimeout(() => { said.textContent = ""; }, SHOWN);
  };
  svl.copied = async text => {
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
    if (!event.target.closest?.("[data-share]")) return;
    if (navigator.share && matchMedia("(pointer: coarse)").matches) {
      try { await navigator.share({ title: document.title, url: location.href }); return tell("Shared"); }
      catch (error) { if (error.name === "AbortError") return; }
    }
    tell(await svl.copied(location.href) ? "Link copied" : "This browser did not copy; take the page's address");
  });
})();
