// @ts-check
// Small kindnesses of forms: show what is typed into a password field, send a form once, copy a
// result. Listens on the document, because <main> may be exchanged.
(() => {
  "use strict";

  document.addEventListener("click", async (event) => {
    const button = /** @type {HTMLElement} */ (event.target).closest("button");
    if (!button) return;
    const field = /** @type {HTMLInputElement | null} */ (
      button.classList.contains("show") ? document.getElementById(button.getAttribute("aria-controls") ?? "") : null);
    if (field) {
      const shown = field.type === "password";
      field.type = shown ? "text" : "password";
      button.setAttribute("aria-pressed", String(shown));
      button.textContent = (shown ? button.dataset.hide : button.dataset.show) ?? "";
    }
    const copied = button.dataset.copy && document.getElementById(button.dataset.copy);
    if (copied) {
      // Plain http has no clipboard for scripts: then the text is at least selected.
      try {
        await navigator.clipboard.writeText(copied.textContent ?? "");
        button.textContent = button.dataset.done ?? "";
      } catch {
        getSelection()?.selectAllChildren(copied);
      }
    }
  });

  // Passwords go back to dots before they are sent, or a browser remembers them as plain text.
  document.addEventListener("submit", (event) => {
    const form = /** @type {HTMLFormElement} */ (event.target);
    if (form.dataset.once === undefined) return;
    if (form.dataset.sent) return event.preventDefault();
    form.dataset.sent = "1";
    for (const button of form.querySelectorAll(".show[aria-pressed=true]")) /** @type {HTMLElement} */ (button).click();
    event.submitter?.setAttribute("aria-disabled", "true");
    if (event.submitter && form.dataset.busy) event.submitter.textContent = form.dataset.busy;
  });

  // The page came back from the back/forward cache: it may be sent again.
  addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    for (const form of document.querySelectorAll("form[data-sent]")) {
      /** @type {HTMLFormElement} */ (form).reset();
      delete /** @type {HTMLFormElement} */ (form).dataset.sent;
    }
  });

  document.getElementById("errors")?.focus();
})();
