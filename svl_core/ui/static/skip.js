// The first stop of the Tab key: a link that is seen once it has the focus, past the head and the hero to the slider.
(() => {
  "use strict";
  const link = svl.make("a", { class: "svl-skip", href: "#drop" }, "Skip to the slider");
  link.addEventListener("click", event => {
    event.preventDefault();
    const knob = document.querySelector("#svl-first input[type=range]") ?? document.querySelector("#drop input[type=range]");
    knob?.focus();
    knob?.scrollIntoView({ block: "nearest" });
  });
  const put = () => document.body.prepend(link);
  document.body ? put() : document.addEventListener("DOMContentLoaded", put);
})();
