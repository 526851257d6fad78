// @ts-check
// The wall: asks every two seconds and repaints the numbers. A wall that has not heard from the
// line for 15 seconds says so and dims: an old number is never shown as live.
(() => {
  "use strict";

  const main = /** @type {HTMLElement} */ (document.getElementById("main"));
  const words = main.dataset;
  let heardAt = performance.now(), painted = "";
  /** The server's clock, whatever this screen believes. */
  let [h, m] = (byId("time").textContent ?? "0:0").split(":").map(Number);
  let minuteAt = performance.now() - (Number(words.now) % 60) * 1000;

  /** @param {string} id @returns {any} */
  function byId(id) { return document.getElementById(id); }
  /** @param {{lo: number, hi: number} | null} eta */
  const span = (eta) => {
    if (!eta) return "–";
    const lo = Math.max(1, Math.ceil(eta.lo / 60)), hi = Math.ceil(eta.hi / 60);
    return eta.hi < 60 ? "< 1" : lo < hi ? `${lo}–${hi}` : String(hi);
  };

  async function ask() {
    try {
      const answer = await fetch(words.poll ?? "", { cache: "no-store", signal: AbortSignal.timeout(8000) });
      if (!answer.ok) throw new Error(String(answer.status));
      const news = await answer.json();
      if (news.build !== words.build) return location.reload();
      heardAt = performance.now();
      paint(news);
    } catch { /* tick() says it when it lasts */ }
    tick();
    setTimeout(ask, 2000);
  }

  /** @param {any} news */
  function paint(news) {
    const { line, upcoming, notice } = news;
    const text = JSON.stringify([line, upcoming, notice]);
    if (text === painted) return;
    painted = text;
    main.dataset.line = line.state;
    const slots = [...line.called.map((/** @type {string} */ no) => slot("called", no)), ...line.serving.map((/** @type {string} */ no) => slot("serving", no))];
    const now = byId("now"), nobody = byId("nobody");
    nobody.hidden = slots.length > 0;
    now.replaceChildren(...slots, nobody);
    byId("next").replaceChildren(...upcoming.map((/** @type {string} */ no) => Object.assign(document.createElement("li"), { textContent: no })));
    for (const each of /** @type {NodeListOf<HTMLElement>} */ (main.querySelectorAll("[data-note]"))) each.hidden = each.dataset.note !== line.state;
    const [en, zh] = byId("notice").children;
    byId("notice").hidden = !notice;
    en.textContent = notice?.text_en ?? "";
    zh.textContent = notice?.text_zh ?? "";
    byId("waiting").textContent = line.waiting;
    byId("new").hidden = !line.estimate || /closed|full|draining/.test(line.state);
    byId("estimate").textContent = span(line.estimate);
    document.title = document.title.replace(/^(\D*?) [^·]* ·/, `$1 ${line.serving.join(", ") || "–"} ·`);
  }

  /** @param {string} kind @param {string} no */
  function slot(kind, no) {
    const made = byId(kind).content.firstElementChild.cloneNode(true);
    made.querySelector("strong").textContent = no;
    return made;
  }

  function tick() {
    const lost = performance.now() - heardAt > 15_000;
    main.dataset.link = lost ? "lost" : "live";
    byId("lost").hidden = !lost;
    byId("alive").hidden = lost;
    for (; performance.now() - minuteAt >= 60_000; minuteAt += 60_000) [h, m] = m === 59 ? [(h + 1) % 24, 0] : [h, m + 1];
    byId("time").textContent = `${String(h).padStart(2, "0")}:${String(m).padStart(2, "0")}`;
  }

  setInterval(tick, 1000);
  setTimeout(ask, 2000);
})();
