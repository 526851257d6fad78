// @ts-check
// The queue page, the desk and the job, kept up to date: asks the line how things stand, patches
// numbers while the state stays, and exchanges <main> for the server's page when it changes.
// All wording is on the page. Without this script the page reloads itself and every form posts.
(() => {
  "use strict";

  /** @type {HTMLElement} */
  let main = byId("main");
  if (!main?.dataset.at) return;
  const at = /** @type {string} */ (main.dataset.at);
  const link = byId("link"), status = byId("status"), alert = byId("alert");

  /** @type {any} The newest answer. */
  let body = null;
  /** What <main> was made from; while it stays the same, only numbers differ. */
  let shownKey = "";
  /** When times run out, and when they began, by performance.now(). @type {Record<string, number>} */
  let ends = {}, begins = {};
  /** Which of them have not run out yet. @type {Set<string>} */
  const running = new Set();
  let heardAt = 0, failures = 0, failingSince = 0, askAgainAt = 0, goodUntil = 0;
  let waking = false, doubted = false, holding = false, composing = false, unsent = false;
  let title = document.title;
  /** @type {number | undefined} */
  let timer;
  /** @type {AbortController | null} */
  let asking = null;
  /** What was typed into a form that had to give way; never a password. @type {Map<string, string>} */
  const typed = new Map();

  /** @param {string} id @returns {any} */
  function byId(id) { return document.getElementById(id); }
  /** @param {string} selector @param {ParentNode} [root] @returns {HTMLElement[]} */
  const all = (selector, root = main) => [...root.querySelectorAll(/** @type {any} */ (selector))];
  /** @param {Element | null} element @param {string} text */
  const say = (element, text) => { if (element && element.textContent !== text) element.textContent = text; };
  /** @param {number} ms */
  const clock = (ms) => {
    const s = Math.max(0, Math.ceil(ms / 1000 - .05));
    return `${Math.floor(s / 60)}:${String(s % 60).padStart(2, "0")}`;
  };
  /** @param {string | undefined} text @param {string | number} n @param {string} [mark] */
  const put = (text, n, mark = "{n}") => (text ?? "").replace(mark, String(n));
  /** The time of day at the server, whatever this device believes. @param {number} inSeconds */
  const timeOfDay = (inSeconds) => {
    const [h, m] = (main.dataset.clock ?? "0:0").split(":").map(Number);
    const t = new Date(((h * 60 + m) * 60 + inSeconds) * 1000);
    return `${String(t.getUTCHours()).padStart(2, "0")}:${String(t.getUTCMinutes()).padStart(2, "0")}`;
  };
  /** @param {{lo: number, hi: number} | null} eta */
  const minutes = (eta) => {
    const d = main.dataset;
    if (!eta) return d.unmeasured ?? "";
    const lo = Math.max(1, Math.ceil(eta.lo / 60)), hi = Math.ceil(eta.hi / 60);
    if (eta.hi < 60) return d.minute ?? "";
    return lo >= hi ? put(d.minutes, hi) : put(put(d.range, lo, "{lo}"), hi, "{hi}");
  };

  // What is shown

  /** Whatever a different page would be needed for. @param {any} b */
  function key(b) {
    const t = b.ticket, l = b.line;
    // Nothing but the end of the turn takes the form from under somebody's fingers.
    if (t?.state === "serving") return `serving ${t.no}`;
    return JSON.stringify([
      l.state, l.reason, l.frozen, b.notice && [b.notice.id, b.notice.text],
      t ? [t.no, t.state, t.ahead > 3 ? 4 : Math.min(t.ahead, 1), !t.eta, t.eta?.grew, t.behind > 0, t.moved,
           t.answer?.extends_left, !t.undo, t.place_in === null, t.ahead > b.ahead.length, t.end]
        : [!l.waiting && !l.serving.length && !l.called.length, !l.estimate],
      b.job && [b.job.step, b.job.result, b.job.ahead > 0],
    ]);
  }

  /** The answer that <main> brought along, or one that came by itself. @param {any} b */
  function learn(b) {
    const now = performance.now(), t = b.ticket;
    body = b;
    heardAt = now;
    ends = {};
    begins = {};
    running.clear();
    const left = { answer: t?.answer?.left_in, aside: t?.aside?.left_in, undo: t?.undo?.left_in, place: t?.place_in };
    for (const [name, seconds] of Object.entries(left)) {
      if (seconds == null) continue;
      ends[name] = now + seconds * 1000;
      if (seconds > 0) running.add(name);
    }
    if (b.job) begins.job = now - b.job.for * 1000;
    for (const each of b.ahead) if (each.state === "serving") begins[each.no] = now - each.for * 1000;
  }

  function readMain() {
    learn(JSON.parse(byId("body").textContent));
    shownKey = key(body);
    title = document.title;
    tick();
  }

  function patch() {
    const t = body.ticket, l = body.line;
    main.dataset.clock = timeOfDay(0);
    /** @type {Record<string, number>} */
    const counts = { waiting: l.waiting, jobs: body.job?.ahead ?? 0 };
    if (t) Object.assign(counts, {
      ahead: t.ahead, behind: t.behind, gone: Math.max(0, t.joined_ahead - t.ahead),
      hidden: t.ahead - body.ahead.length, extends: t.answer?.extends_left ?? 0,
    });
    for (const el of all("[data-count]")) {
      const n = counts[el.dataset.count ?? ""];
      if (n !== undefined) say(el, put(n === 1 ? el.dataset.one : el.dataset.other, n));
    }
    for (const el of all("[data-eta]")) say(el, minutes(el.dataset.eta === "line" ? l.estimate : t?.eta));
    for (const el of all("[data-numbers]")) {
      const more = l.serving.length - 2;
      say(el, (l.serving.slice(0, 2).join(", ") || "–") + (more > 0 ? ` +${more}` : ""));
    }
    for (const el of /** @type {any[]} */ (all("[data-progress]"))) el.value = counts.gone;
    for (const el of all("[data-rows]")) paintRows(el);
    if (t && main.dataset.title) title = put(main.dataset.title, t.ahead);
  }

  /** @param {HTMLElement} list */
  function paintRows(list) {
    const old = all("[data-neighbour]", list);
    const me = list.querySelector(".me");
    body.ahead.forEach((/** @type {any} */ each, /** @type {number} */ i) => {
      const row = old[i] ?? byId("neighbour").content.firstElementChild.cloneNode(true);
      const name = each.name || list.dataset.someone;
      row.className = each.state;
      say(row.querySelector(".face"), (each.name || "·")[0]);
      say(row.querySelector("b"), name);
      say(row.querySelector(".no"), each.no);
      say(row.querySelector(".what"), list.dataset[each.state] ?? "");
      say(row.querySelector(".for"), begins[each.no] === undefined ? "" : clock(performance.now() - begins[each.no]));
      if (!old[i]) list.insertBefore(row, me);
    });
    old.slice(body.ahead.length).forEach((row) => row.remove());
  }

  /** Puts another page's <main> here; keeps what was typed and where the focus was.
   * @param {Document} page @param {string} [address] */
  function exchange(page, address) {
    const next = page.getElementById("main");
    if (!next?.dataset.at) throw new Error("not a page of the line");
    const before = body, wasState = main.dataset.state;
    const focused = /** @type {any} */ (document.activeElement);
    const inside = main.contains(focused);
    const caret = inside && focused.matches("input, textarea") ? [focused.selectionStart, focused.selectionEnd] : null;
    for (const field of /** @type {any[]} */ (all("input, textarea"))) {
      if (!field.name || /^(hidden|password)$/.test(field.type)) continue;
      if (field.type === "radio" ? field.checked !== field.defaultChecked && field.checked : field.value !== field.defaultValue) typed.set(field.name, field.value);
    }
    main.replaceWith(document.adoptNode(next));
    main = next;
    if (before.ticket && before.ticket.no !== JSON.parse(byId("body").textContent).ticket?.no) typed.clear();
    for (const field of /** @type {any[]} */ (all("input, textarea"))) {
      if (!typed.has(field.name) || field.type === "hidden" || field.type === "password") continue;
      if (field.type === "radio") field.checked = field.value === typed.get(field.name);
      else if (!field.value) field.value = typed.get(field.name);
    }
    document.title = page.title;
    const icon = /** @type {any} */ (page.querySelector("link[rel=icon]"));
    if (icon) /** @type {any} */ (document.querySelector("link[rel=icon]")).href = icon.href;
    if (address) history.replaceState(null, "", address);
    readMain();
    const changed = main.dataset.state !== wasState;
    const again = inside && focused.id && byId(focused.id);
    const summary = byId("errors");
    if (summary) summary.focus();
    else if (again && main.contains(again)) {
      again.focus({ preventScroll: true });
      // Some kinds of fields have no caret to be set.
      if (caret) try { again.setSelectionRange(caret[0], caret[1]); } catch { /* as it is */ }
    } else if (inside || (changed && main.querySelector("[data-alert]"))) byId("heading")?.focus({ preventScroll: !changed });
    // A page brings its scripts along.
    for (const each of all("script[src]", page)) {
      const src = each.getAttribute("src") ?? "";
      if (!document.querySelector(`script[src="${src}"]`)) document.head.append(Object.assign(document.createElement("script"), { src }));
    }
    announce(before, changed);
    // Once per call; `tell.js` adds a tone for who wants one.
    const turn = main.querySelector("[data-alert]")?.textContent ?? "";
    if (changed) say(alert, turn);
    document.dispatchEvent(new CustomEvent("shown", { detail: changed && turn ? [turn, body.ticket.no] : null }));
  }

  // What is said: only at milestones, so that a screen reader is not talked at

  const MILESTONES = [10, 5, 3, 2, 1, 0];

  /** @param {any} before @param {boolean} changed */
  function announce(before, changed) {
    const a = before.ticket, b = body.ticket;
    const parts = [];
    const passed = a && b && b.state === "waiting" && MILESTONES.some((m) => b.ahead <= m && m < a.ahead);
    if (changed || passed || before.line.state !== body.line.state || before.job?.step !== body.job?.step) parts.push("[data-say]");
    if (b?.moved && !a?.moved) parts.push("[data-say-moved]");
    if (body.notice && body.notice.id !== before.notice?.id) parts.push("[data-say-notice]");
    if (b?.eta?.grew && !a?.eta?.grew) parts.push("[data-say-grew]");
    if (b?.answer && a?.answer && b.answer.extends_left < a.answer.extends_left) parts.push("[data-say-extended]");
    const text = parts.flatMap((each) => all(each)).map((each) => each.textContent?.trim().replace(/\s+/g, " ")).join(" ");
    if (text) say(status, text);
  }

  // Asking: one question at a time, and the next one counted from the answer. A timer started by
  // an answer is not slowed down in hidden tabs, a chain of timers is, to one a minute.

  async function ask() {
    clearTimeout(timer);
    asking?.abort();
    const mine = asking = new AbortController();
    const limit = setTimeout(() => mine.abort(), 8000);
    let wait = 0;
    try {
      const answer = await fetch(`/api${at}/ticket`, { signal: mine.signal, cache: "no-store", headers: { Accept: "application/json" } });
      if (answer.status === 401) {
        heard();
        if (main.dataset.state !== "lost") await show(mine.signal);
      } else if (answer.ok) {
        const news = await answer.json();
        if (asking !== mine) return;
        heard();
        await take(news, mine.signal);
      } else throw Object.assign(new Error(), { retryAfter: Number(answer.headers.get("Retry-After")) || 0 });
      if (asking !== mine) return;
      const seconds = document.hidden ? body.poll.hidden_in : body.poll.in;
      wait = seconds ? seconds * (800 + 400 * Math.random()) : Infinity;
    } catch (error) {
      if (asking !== mine) return;
      if (!failures++) failingSince = performance.now();
      wait = Math.min(30, 2 ** Math.min(failures, 5)) * (500 + 500 * Math.random());
      wait = Math.min(30_000, Math.max(wait, 1000 * (/** @type {any} */ (error).retryAfter || 0)));
    } finally {
      clearTimeout(limit);
    }
    asking = null;
    askAgainAt = performance.now() + wait;
    if (wait < Infinity) timer = setTimeout(ask, wait);
    tick();
  }

  function heard() {
    if (/reconnecting|offline/.test(main.dataset.link ?? "")) {
      goodUntil = performance.now() + 4000;
      say(status, `${link.dataset.restored} ${all("[data-say]").map((each) => each.textContent?.trim()).join(" ")}`);
    }
    heardAt = performance.now();
    failures = 0;
    waking = unsent = false;
  }

  /** @param {any} news @param {AbortSignal} [signal] */
  async function take(news, signal) {
    // Whoever wants a new number after an ended one is not shown the ended one.
    if (!body.ticket && news.ticket?.end && /[?&]again/.test(location.search)) Object.assign(news, { ticket: null, job: null, ahead: [] });
    // An older answer is dropped; twice in a row, it is the line that began anew.
    if (news.rev < body.rev && !doubted) { doubted = true; return; }
    doubted = false;
    if (news.build !== body.build && /none|waiting/.test(main.dataset.state ?? "") && !isTyping()) return location.reload();
    const before = body;
    learn(news);
    const urgent = news.ticket?.state === "called";
    if (key(news) === shownKey) {
      if (holding) return;
      patch();
      announce(before, false);
      tick();
    } else if ((!holding || urgent) && !composing) {
      body = before; // so that the exchange can tell what changed
      await show(signal);
    }
  }

  const isTyping = () => main.contains(document.activeElement) && !!document.activeElement?.matches("input, textarea");

  /** Fetches the page as it is now. @param {AbortSignal} [signal] */
  async function show(signal) {
    const again = !body.ticket && /[?&]again/.test(location.search) ? "?again=1" : "";
    await adopt(await fetch(at + again, { signal, cache: "no-store", headers: { Accept: "text/html" } }), !again);
  }

  /** @param {Response} answer @param {boolean} move */
  async function adopt(answer, move) {
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const path = new URL(answer.url).pathname;
    exchange(page, move && path !== location.pathname + location.search ? path : undefined);
  }

  function wake() {
    if (!body.poll.in) return;
    waking = performance.now() - heardAt > body.poll.stale_after * 1000;
    ask();
  }

  // Pressing: every form posts by itself; here it posts without leaving the page

  /** @param {HTMLFormElement} form @param {HTMLElement | null} button */
  async function send(form, button) {
    if (form.dataset.sending) return;
    form.dataset.sending = "1";
    button?.setAttribute("aria-disabled", "true");
    const label = button?.textContent ?? "";
    if (button && form.dataset.busy) say(button, form.dataset.busy);
    clearTimeout(timer);
    asking?.abort();
    asking = null;
    try {
      const stay = !!form.dataset.stay;
      const answer = await fetch(form.action, {
        method: "POST", body: new URLSearchParams(/** @type {any} */ (new FormData(form, button))),
        redirect: stay ? "manual" : "follow", signal: AbortSignal.timeout(8000),
      });
      heard();
      const dialog = form.closest("dialog");
      if (dialog?.open) dialog.close();
      if (stay && answer.type === "opaqueredirect") { /* the next answer tells */ }
      else if (stay) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        say(status, page.querySelector("[role=alert]")?.textContent?.trim() ?? "");
      } else await adopt(answer, answer.redirected);
    } catch {
      unsent = true;
      say(status, link.dataset.unsent ?? "");
    }
    delete form.dataset.sending;
    button?.removeAttribute("aria-disabled");
    if (button && form.dataset.busy && button.isConnected) say(button, label);
    ask();
  }

  document.addEventListener("submit", (event) => {
    const form = /** @type {HTMLFormElement} */ (event.target);
    if (form.method !== "post" || form.dataset.once !== undefined) return;
    event.preventDefault();
    const question = form.dataset.ask && byId(form.dataset.ask);
    if (question) question.showModal();
    else send(form, event.submitter);
  });

  document.addEventListener("cancel", (event) => {
    // At "Do you need more time?" Escape is a yes: nobody loses their place by closing it.
    if (/** @type {HTMLElement} */ (event.target).id === "lease") /** @type {any} */ (event.target).querySelector("form").requestSubmit();
  }, true);

  document.addEventListener("click", (event) => {
    const button = /** @type {HTMLElement} */ (event.target).closest("button");
    if (button?.id === "hold") {
      holding = !holding;
      button.setAttribute("aria-pressed", String(holding));
      say(button, (holding ? button.dataset.on : button.dataset.off) ?? "");
      if (!holding) ask();
      tick();
    } else if (button && link.contains(button)) ask();
  });

  // Ticking: paints what runs by itself, and notices what did not happen

  let drift = Date.now() - performance.now();
  /** The last whole seconds left that were looked at. */
  let leftBefore = Infinity;

  function tick() {
    const now = performance.now();
    const jump = Date.now() - now - drift;
    drift += jump;
    if (Math.abs(jump) > 10_000) return wake();

    for (const el of all("[data-left]")) {
      const end = ends[el.dataset.left ?? ""];
      if (end !== undefined) say(el, clock(end - now));
    }
    for (const el of all("[data-since]")) say(el, clock(now - (begins[el.dataset.since ?? ""] ?? now)));
    if (!holding) for (const el of all(".line .serving .for")) {
      const since = begins[el.parentElement?.querySelector(".no")?.textContent ?? ""];
      if (since !== undefined) say(el, clock(now - since));
    }
    for (const name of running) if (ends[name] <= now) {
      // Just over here: a moment later it is over at the line too.
      running.delete(name);
      clearTimeout(timer);
      timer = setTimeout(ask, 700);
    }
    runningOut(now);
    paintLink(now);
  }

  /** @param {number} now */
  function runningOut(now) {
    const left = ends.answer === undefined ? Infinity : Math.ceil((ends.answer - now) / 1000);
    if (main.dataset.state === "called" && left < Infinity) {
      const total = Math.max(body.ticket.answer.total, left, 1);
      main.querySelector("[data-ring]")?.setAttribute("stroke-dasharray", `${Math.max(0, 100 * left / total)} 100`);
      main.querySelector(".ring")?.classList.toggle("last", left <= 30);
      if (left <= 30) title = put(main.dataset.titleLeft, clock(left * 1000), "{t}");
      const mark = [60, 30, 10].find((m) => left <= m && m < leftBefore && leftBefore < Infinity);
      if (mark) say(alert, put(main.dataset.sayLeft, mark));
    }
    const lease = byId("lease");
    if (lease && left > 60 && lease.open) lease.close();
    if (lease && left <= 60 && leftBefore > 60 && !lease.open && lease.querySelector("form")) lease.showModal();
    leftBefore = left;
  }

  /** @param {number} now */
  function paintLink(now) {
    const age = Math.round((now - heardAt) / 1000), asks = body.poll.in > 0;
    let state = "live";
    if (!navigator.onLine) state = "offline";
    else if (failures > 1 || (failures && now - failingSince > 10_000)) state = "reconnecting";
    else if (waking) state = "asleep";
    else if (asks && !document.hidden && age > body.poll.stale_after) state = "stale";
    if (state !== main.dataset.link) {
      if (/reconnecting|offline/.test(state)) say(status, (link.dataset[state] ?? "").replace(/[^.。，,]*\{n\}.*/, ""));
      main.dataset.link = state;
    }
    const text = unsent ? link.dataset.unsent
      : state !== "live" ? put(link.dataset[state], state === "stale" ? age : Math.max(0, Math.ceil((askAgainAt - now) / 1000)))
      : now < goodUntil ? link.dataset.restored : "";
    const keep = body.ticket?.keep;
    link.hidden = !text;
    link.classList.toggle("good", state === "live" && !unsent);
    say(link.querySelector("b"), text ?? "");
    say(link.querySelector("span"), keep && /reconnecting|offline/.test(state) ? put(main.dataset.keep, timeOfDay(keep), "{t}") : "");
    const told = byId("age");
    told.closest("p").hidden = !asks;
    say(told, holding ? told.dataset.held : age < 2 ? told.dataset.now : put(told.dataset.one, age));
    const shown = (state === "reconnecting" || state === "offline" ? "(…) " : "") + title;
    if (document.title !== shown) document.title = shown;
  }

  addEventListener("compositionstart", () => { composing = true; });
  addEventListener("compositionend", () => { composing = false; });
  addEventListener("online", wake);
  addEventListener("offline", tick);
  addEventListener("pageshow", (event) => { if (event.persisted) wake(); });
  document.addEventListener("resume", wake);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) wake(); });
  if (/[?&]taken/.test(location.search) && byId("body").textContent.includes('"no"')) history.replaceState(null, "", location.pathname);
  readMain();
  setInterval(tick, 500);
  if (body.poll.in) timer = setTimeout(ask, Math.min(body.poll.in, 3) * 1000 * (.8 + .4 * Math.random()));
})();
