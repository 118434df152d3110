// Large type for a lecture hall: a toggle kept in the address, so that a link opens the page that way.
(() => {
  "use strict";
  const SCALE = () => innerWidth > 640 ? 1.3 : 1.12;
  const root = document.documentElement;
  const large = () => root.classList.contains("svl-large");
  const set = on => {
    root.classList.toggle("svl-large", on);
    root.style.setProperty("--svl-type", on ? SCALE() : 1);
    svl.scale = on ? SCALE() : 1;  // figures scale their own type: the canvas keeps its pixels, so that clicks land
  };
  set(new URLSearchParams(location.search).get("type") === "large");

  svl.parts.type = box => {
    const button = svl.make("button", { type: "button", class: "svl-start", title: "Larger letters and figures, for a lecture hall" }, "Large type");
    const told = () => button.setAttribute("aria-pressed", String(large()));
    box.append(button);
    button.addEventListener("click", () => {
      set(!large());
      const query = new URLSearchParams(location.search);
      large() ? query.set("type", "large") : query.delete("type");
      history.replaceState(history.state, "", `${location.pathname}${query.size ? "?" + query : ""}`);
      told();
      svl.redraw();
    });
    return told;
  };
})();
