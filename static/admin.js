// @ts-check
// The operator's tables, people and requests, kept live: asks each second, patches rows by number so
// that focus, caret and open pieces stay where they are, and posts buttons without leaving the
// page. A press acts on the row and the state that were seen; the line refuses when that is no
// longer so.
(() => {
  "use strict";

  const main = /** @type {HTMLElement} */ (document.getElementById("main"));
  const words = main.dataset;
  const poll = /** @type {string} */ (words.poll);
  const query = poll.slice(poll.indexOf("?"));
  const rows = byId("rows"), jobs = byId("jobs");
  const said = byId("said"), alive = byId("alive");

  /** @type {any} The newest answer, and the one that is painted. */
  let newest = null;
  let paintedRev = -1, failures = 0, frozen = false, pressing = false;
  /** @type {number | undefined} */
  let timer, fading;
  /** @type {AbortController | null} */
  let asking = null;

  /** @param {string} id @returns {any} */
  function byId(id) { return document.getElementById(id); }
  /** @param {Element | null} element @param {unknown} value */
  const say = (element, value) => {
    const text = value == null ? "" : String(value);
    if (element && element.textContent !== text) element.textContent = text;
  };
  /** @param {number | null} s */
  const clock = (s) => s == null ? "–" : `${Math.floor(s / 60)}:${String(s % 60).padStart(2, "0")}`;
  /** @param {number | null} s */
  const age = (s) => s == null || s < 5400 ? clock(s) : s < 172800 ? filled("hours", Math.floor(s / 3600)) : filled("days", Math.floor(s / 86400));
  /** @param {string} name @param {unknown} n */
  const filled = (name, n) => (words[name] ?? "").replace("{n}", String(n));

  // Asking

  async function ask() {
    clearTimeout(timer);
    asking?.abort();
    const mine = asking = new AbortController();
    const limit = setTimeout(() => mine.abort(), 8000);
    try {
      const answer = await fetch(poll, { signal: mine.signal, cache: "no-store" });
      if (asking !== mine) return;
      if (answer.status === 401) return location.reload();
      if (!answer.ok) throw new Error(String(answer.status));
      const news = await answer.json();
      if (asking !== mine) return;
      failures = 0;
      take(news);
    } catch {
      if (asking !== mine) return;
      failures++;
    } finally {
      clearTimeout(limit);
    }
    paintLink();
    const wait = failures ? Math.min(30, 2 ** Math.min(failures, 5)) * (500 + 500 * Math.random()) : document.hidden ? 5000 : 1000;
    timer = setTimeout(ask, wait);
  }

  /** @param {any} news */
  function take(news) {
    if (news.build !== words.build && !document.querySelector(":popover-open") && !dirty().length) return location.reload();
    newest = news;
    byId("session").hidden = news.session.left_in > 120;
    if (!frozen) paint();
  }

  /** Fields that the operator has changed and not sent. @returns {any[]} */
  const dirty = () => [.../** @type {NodeListOf<any>} */ (main.querySelectorAll("input:not([type=hidden]), textarea"))].filter((each) => each.value !== each.defaultValue);

  // Painting

  function paint() {
    const o = newest, l = o.line;
    const focused = /** @type {any} */ (document.activeElement);
    const caret = focused?.matches("input, textarea") ? focused.selectionStart : null;
    for (const el of /** @type {NodeListOf<any>} */ (main.querySelectorAll("[data-fill]"))) {
      const value = el.dataset.fill.split(".").reduce((/** @type {any} */ at, /** @type {string} */ name) => at?.[name], o);
      const text = el.dataset.as === "clock" ? clock(value) : value ?? "";
      if (!("defaultValue" in el)) say(el, text);
      // What is being typed is the operator's until it is sent.
      else if (el !== focused && el.value === el.defaultValue) el.value = el.defaultValue = String(text);
    }
    for (const el of /** @type {NodeListOf<HTMLElement>} */ (main.querySelectorAll("[data-when]"))) {
      el.hidden = !el.dataset.when?.split(" ").includes(l.state);
    }
    for (const el of /** @type {NodeListOf<HTMLElement>} */ (main.querySelectorAll("[data-work]"))) el.hidden = el.dataset.work !== o.work.state;
    pill(byId("line-state"), l.state, l.state === "open" ? "ok" : "warn");
    pill(byId("work-state"), o.work.state, o.work.state === "running" ? "ok" : "bad");
    main.dataset.line = l.state;
    byId("frozen").hidden = !l.frozen;
    byId("stopped").hidden = l.state !== "paused";
    byId("kick-all").hidden = !o.jobs.buried;
    byId("more-jobs").hidden = !o.work.more;
    document.title = filled("title", o.kpi.waiting);
    table(rows, o.rows, "row", (tr, each) => paintPerson(tr, each, o.kpi.waiting));
    table(jobs, o.work.rows.map((/** @type {any} */ each) => ({ ...each, number: each.id, no: each.ref })), "request", paintRequest);
    list("slots", o.work.slots, (el, each) => {
      say(el("slot"), each.slot);
      look(el("state"), byId("slots"), each.state, SLOT_LOOKS);
      say(el("for"), each.for == null ? "" : age(each.for));
      say(el("job"), each.job);
    }, "slot");
    list("log", o.actions, (el, each) => {
      say(el("time"), timeOfDay(each.at));
      say(el("who"), each.who);
      say(el("action"), byId("log").dataset[each.action.replace(/-(.)/g, (/** @type {string} */ _, /** @type {string} */ c) => c.toUpperCase())] ?? each.action);
      say(el("no"), each.no);
      say(el("change"), each.action === "places" ? `${each.before} → ${each.after}` : each.action === "move" ? `→ ${each.after}` : "");
      say(el("reason"), each.reason);
      /** @type {any} */ (el("reason")).hidden = !each.reason;
      say(el("outcome"), each.outcome === "done" ? "" : each.outcome);
    }, "action");
    paintedRev = o.rev;
    // Browsers that cannot move an element without taking it out: give the focus back.
    if (focused !== document.activeElement && focused?.isConnected) {
      focused.focus({ preventScroll: true });
      if (caret !== null) try { focused.setSelectionRange(caret, caret); } catch { /* no caret there */ }
    }
  }

  /** @param {string} id @param {any[]} items @param {(cell: (name: string) => Element | null, each: any) => void} fill @param {string} template */
  function list(id, items, fill, template) {
    const ul = byId(id);
    items.forEach((each, i) => {
      const li = ul.children[i] ?? ul.appendChild(byId(template).content.firstElementChild.cloneNode(true));
      fill((name) => li.querySelector(`[data-cell=${name}]`), each);
    });
    while (ul.children.length > items.length) ul.lastElementChild.remove();
    byId(`no-${id}`).hidden = items.length > 0;
  }

  /** @param {number} at */
  function timeOfDay(at) {
    const d = byId("log").dataset, [h, m] = d.clock.split(":").map(Number);
    const t = new Date(((h * 60 + m) * 60 + at - Math.floor(Number(d.now) / 60) * 60) * 1000);
    return `${String(t.getUTCHours()).padStart(2, "0")}:${String(t.getUTCMinutes()).padStart(2, "0")}`;
  }

  /** The rows of a table, each under its number.
   * @param {any} body @param {any[]} wanted @param {string} template @param {(tr: HTMLElement, each: any) => void} fill */
  function table(body, wanted, template, fill) {
    const here = new Map([...body.children].map((tr) => [Number(tr.dataset.number), tr]));
    const keep = new Set(wanted.map((each) => each.number));
    for (const [number, tr] of here) if (!keep.has(number)) tr.remove();
    // Where moving would take a row out for a moment, nothing moves under a finger.
    const still = !body.moveBefore && pressing;
    let next = body.firstElementChild;
    for (const each of wanted) {
      const tr = here.get(each.number) ?? made(template, each);
      fill(tr, each);
      if (tr === next) next = next.nextElementSibling;
      else if (!tr.isConnected) body.insertBefore(tr, next);
      else if (body.moveBefore) body.moveBefore(tr, next);
      else if (!still) body.insertBefore(tr, next);
    }
    byId(`no-${body.id}`).hidden = wanted.length > 0;
  }

  /** A copy of a template with its number filled in. @param {string | HTMLTemplateElement} template @param {any} each @returns {any} */
  function made(template, each) {
    const copy = (typeof template === "string" ? byId(template) : template).content.cloneNode(true);
    for (const el of copy.querySelectorAll("*")) {
      for (const a of el.attributes) if (a.value.includes("{")) a.value = a.value.replace("{number}", each.number).replace("{no}", each.no);
      for (const t of el.childNodes) if (t.nodeType === 3 && t.data.includes("{no}")) t.data = t.data.replace("{no}", each.no);
    }
    return typeof template === "string" ? copy.firstElementChild : copy;
  }

  /** @typedef {Record<string, string>} Looks */
  const LOOKS = /** @type {Looks} */ ({ called: "live", ready: "live", serving: "ok", aside: "bad", away: "warn" });
  const JOB_LOOKS = /** @type {Looks} */ ({ reserved: "live", delayed: "warn", buried: "bad", stopping: "warn" });
  const SLOT_LOOKS = /** @type {Looks} */ ({ busy: "live", slow: "warn", lost: "bad" });

  /** @param {HTMLElement} el @param {string} state @param {string} colour */
  function pill(el, state, colour) {
    say(el, el.dataset[state]);
    el.className = `pill ${colour}`;
  }
  /** @param {Element | null} el @param {HTMLElement} list @param {string} state @param {Looks} looks */
  function look(el, list, state, looks) {
    say(el, list.dataset[state] ?? state);
    const around = /** @type {HTMLElement} */ (el?.parentElement), colour = `pill ${looks[state] ?? "plain"}`;
    if (around.className !== colour) around.className = colour;
  }
  /** What may be done with a row goes by its state. @param {HTMLElement} tr @param {any} each @param {string} kind */
  function paintActions(tr, each, kind) {
    if (tr.dataset.state === each.state) return;
    const acts = /** @type {HTMLElement} */ (tr.querySelector(".acts-cell"));
    const focus = acts.contains(document.activeElement);
    acts.replaceChildren(made(/** @type {any} */ (main.querySelector(`[data-${kind}="${each.state}"]`)), each));
    tr.dataset.state = each.state;
    if (focus) /** @type {any} */ (acts.querySelector("button, a"))?.focus({ preventScroll: true });
  }
  /** @param {HTMLElement} tr */
  const cells = (tr) => (/** @type {string} */ name) => tr.querySelector(`[data-cell=${name}]`);

  /** @param {HTMLElement} tr @param {any} each */
  function paintRequest(tr, each) {
    const cell = cells(tr);
    paintActions(tr, each, "job-actions");
    say(cell("position"), each.position ?? "–");
    say(cell("no"), each.ref);
    say(cell("name"), each.title);
    look(cell("state"), jobs, each.stopping ? "stopping" : each.state, JOB_LOOKS);
    say(cell("for"), each.for == null ? "" : age(each.for));
    say(cell("age"), age(each.age));
    say(cell("about"), [each.attempt && filled("attempt", each.attempt), each.fails && filled("failed", each.fails), each.holder].filter(Boolean).join(" · "));
    say(cell("error"), each.error);
  }

  /** @param {HTMLElement} tr @param {any} each @param {number} waiting */
  function paintPerson(tr, each, waiting) {
    const cell = cells(tr);
    paintActions(tr, each, "actions");
    say(cell("position"), each.position ?? "–");
    say(cell("name"), each.name);
    say(cell("no"), each.no);
    say(cell("service_title"), each.service_title);
    look(cell("state"), rows, each.away && each.state === "waiting" ? "away" : each.state, LOOKS);
    say(cell("left"), each.left == null ? "" : clock(each.left));
    say(cell("waited"), clock(each.waited));
    say(cell("heard"), clock(each.heard));
    say(cell("extended"), each.extends_used ? `+${each.extends_used}` : "");
    for (const step of /** @type {NodeListOf<HTMLButtonElement>} */ (tr.querySelectorAll("[data-step]"))) {
      const to = each.position + Number(step.dataset.step);
      step.value = String(to);
      // A button that has the focus would lose it; there the line says why not.
      step.disabled = (to < 1 || to > waiting) && step !== document.activeElement;
    }
  }

  function paintLink() {
    const lost = failures > 1;
    main.dataset.link = lost ? "lost" : "live";
    alive.className = `pill ${lost ? "bad" : frozen ? "warn" : "live"}`;
    say(alive, lost ? alive.dataset.lost : frozen ? (words.held ?? "").replace("{n}", String(Math.max(0, (newest?.rev ?? paintedRev) - paintedRev))) : alive.dataset.live);
  }

  // Pressing

  document.addEventListener("submit", async (event) => {
    const form = /** @type {HTMLFormElement} */ (event.target);
    const button = /** @type {HTMLButtonElement | null} */ (event.submitter);
    const path = new URL(button?.getAttribute("formaction") ?? form.action, location.href).pathname;
    if (form.method !== "post" || path === "/admin/sign-out") return;
    event.preventDefault();
    if (form.dataset.sending) return;
    form.dataset.sending = "1";
    const what = button?.getAttribute("aria-label") ?? button?.textContent ?? "";
    say(said, "");
    said.className = "said";
    try {
      const answer = await fetch(`/api${path}${query}`, {
        method: "POST", body: new URLSearchParams(/** @type {any} */ (new FormData(form, button))), signal: AbortSignal.timeout(8000),
      });
      if (answer.status === 401) return location.reload();
      const news = await answer.json();
      if (answer.ok) {
        const piece = /** @type {any} */ (form.closest("[popover]"));
        for (const field of /** @type {any} */ (form.elements)) if ("defaultValue" in field && field.type !== "hidden" && !piece) field.defaultValue = field.value;
        if (piece) { form.reset(); piece.hidePopover(); }
        asking?.abort();
        asking = null;
        take(news);
        say(said, (words.done ?? "").replace("{what}", what));
      } else {
        said.classList.add("bad");
        say(said, news.detail ?? news.title);
      }
    } catch {
      said.classList.add("bad");
      say(said, words.unsent);
    } finally {
      delete form.dataset.sending;
      clearTimeout(fading);
      fading = setTimeout(() => say(said, ""), 8000);
      ask();
    }
  });

  // What needs words or a second thought is one piece for all rows: it remembers the row and the
  // state that were seen when it opened, whatever the table does meanwhile.
  const pieces = /** @type {Record<string, string>} */ ({ more: "tickets", job: "jobs" });
  for (const id in pieces) byId(id).popover = "auto";
  main.addEventListener("click", (event) => {
    const link = /** @type {HTMLElement | null} */ (/** @type {HTMLElement} */ (event.target).closest("[data-more]"));
    if (!link) return;
    event.preventDefault();
    const id = link.dataset.more ?? "", piece = byId(id), form = piece.querySelector("form");
    const tr = /** @type {HTMLElement} */ (link.closest("tr")), read = (/** @type {string} */ name) => tr.querySelector(`[data-cell=${name}]`)?.textContent ?? "";
    form.reset();
    form.elements.seen.value = tr.dataset.state;
    say(byId(`h-${id}`), `${read("no")} ${read("name")}`);
    for (const el of piece.querySelectorAll("[data-for]")) el.hidden = !el.dataset.for.split(" ").includes(tr.dataset.state);
    for (const el of piece.querySelectorAll("[data-verb]")) {
      say(el, el.dataset.label.replace("{no}", read("no")));
      el.formAction = `${location.origin}/admin/lines/${words.name}/${pieces[id]}/${tr.dataset.number}/${el.dataset.verb}`;
    }
    piece.showPopover();
    piece.querySelector("input:not([type=hidden])").focus();
  });

  byId("freeze").addEventListener("click", () => {
    frozen = !frozen;
    byId("freeze").setAttribute("aria-pressed", String(frozen));
    if (!frozen && newest) paint();
    paintLink();
  });
  byId("stay").addEventListener("click", async () => {
    try { await fetch(location.href, { cache: "no-store" }); } finally { ask(); }
  });
  addEventListener("pointerdown", () => { pressing = true; });
  for (const kind of ["pointerup", "pointercancel"]) addEventListener(kind, () => { pressing = false; });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); });
  addEventListener("online", ask);
  // After signing out, Back must not show the table.
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  timer = setTimeout(ask, 1000);
})();
