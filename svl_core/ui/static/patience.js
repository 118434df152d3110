// A full queue is waited for: what this page asked for joins as soon as there is room, instead of ending in an error.
// A class behind one address comes back all at once after a restart, and an opening that is refused would leave its page empty.
(() => {
  "use strict";
  const JOIN = /\/queue\/join(\?|$)/, FULL = [429, 503], FIRST = 1_000, LONGEST = 8_000, PATIENCE = 240_000;  // milliseconds
  const plain = window.fetch.bind(window);
  const rest = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
  // A visitor whose own requests wait already presses Stop or waits for them; that is no matter of room.
  const isOwn = async (answer) => (await answer.clone().text()).includes("of yours");

  window.fetch = async (asked, options) => {
    const url = typeof asked === "string" ? asked : asked?.url ?? String(asked);
    const until = Date.now() + PATIENCE;
    let answer = await plain(asked, options), pause = FIRST;
    while (JOIN.test(url) && !(asked instanceof Request) && FULL.includes(answer.status)) {
      if (Date.now() + pause > until || options?.signal?.aborted || await isOwn(answer)) break;
      await rest(pause * (0.5 + Math.random()));  // not all of a class at the same moment
      pause = Math.min(2 * pause, LONGEST);
      answer = await plain(asked, options);
    }
    return answer;
  };
})();
