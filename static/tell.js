// @ts-check
// "Tell me when it's my turn": a tone, and where the browser allows it a message of the device.
// Nothing plays or asks before a press, which is also what browsers insist on; what cannot be
// done is said. `queue.js` tells by the event "shown" that the page changed, and if it is a call.
(() => {
  "use strict";

  /** @type {AudioContext | null} */
  let sound = null;
  let armed = false;

  /** @param {string} id @returns {any} */
  const byId = (id) => document.getElementById(id);
  const notes = () => "Notification" in window && isSecureContext && Notification.permission === "granted";

  /** @param {boolean} ask */
  async function arm(ask) {
    armed = true;
    try {
      sound ??= new AudioContext();
      paint();
      await sound.resume();
    } catch { sound = null; }
    if (ask && "Notification" in window && isSecureContext && Notification.permission === "default") {
      try { await Notification.requestPermission(); } catch { /* then without */ }
    }
    paint();
  }

  function paint() {
    const button = byId("tell"), told = byId("told");
    if (!button) return;
    button.setAttribute("aria-pressed", String(armed));
    button.classList.toggle("primary", !armed);
    button.textContent = armed ? button.dataset.on : button.dataset.off;
    told.hidden = !armed;
    told.textContent = sound ? (notes() ? told.dataset.all : told.dataset.part) : told.dataset.titleOnly;
  }

  /** One short tone. @param {AudioContext} context */
  function play(context) {
    const tone = context.createOscillator(), volume = context.createGain(), now = context.currentTime;
    tone.frequency.value = 660;
    volume.gain.setValueAtTime(.25, now);
    volume.gain.exponentialRampToValueAtTime(.001, now + .9);
    tone.connect(volume).connect(context.destination);
    tone.start(now);
    tone.stop(now + .9);
  }

  /** Remembers the wish over reloads, where the browser lets us. @param {string} [wish] */
  function remembered(wish) {
    try {
      if (wish) localStorage.setItem("tell", wish);
      return localStorage.getItem("tell");
    } catch { return null; }
  }

  document.addEventListener("shown", (event) => {
    paint();
    const call = /** @type {CustomEvent} */ (event).detail;
    if (!call || !armed) return;
    if (sound?.state === "running") play(sound);
    if (!document.hidden || !notes()) return;
    // On phones the constructor throws; there the tone and the title have to do.
    try {
      const note = new Notification(call[0], { body: call[1], tag: call[1] });
      note.onclick = () => { window.focus(); note.close(); };
    } catch { /* as said */ }
  });

  document.addEventListener("click", (event) => {
    if (/** @type {HTMLElement} */ (event.target).closest("#tell")) {
      if (armed) { armed = false; paint(); } else arm(true);
      remembered(armed ? "on" : "off");
    } else if (!armed && remembered() === "on") arm(false); // any press will do to unlock the tone
  });

  paint();
})();
