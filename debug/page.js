"use strict";
(() => {
  const lost = document.getElementById("lost");

  // show puts what was fetched in the place of what is shown, and leaves open what was opened.
  function show(text) {
    const next = new DOMParser().parseFromString(text, "text/html");
    for (const d of document.querySelectorAll("details")) {
      const twin = next.getElementById(d.id);
      if (twin) twin.open = d.open;
    }
    const focus = document.activeElement && document.activeElement.closest("[id]");
    for (const id of ["time", "main"]) {
      document.getElementById(id).replaceWith(document.importNode(next.getElementById(id), true));
    }
    const again = focus && document.getElementById(focus.id);
    if (again && again !== document.activeElement) {
      (again.matches("details") ? again.querySelector("summary") : again).focus({ preventScroll: true });
    }
  }

  async function refresh() {
    try {
      const reply = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
      if (!reply.ok) throw new Error(reply.statusText);
      const text = await reply.text();
      if (getSelection().isCollapsed) show(text);
      lost.hidden = true;
    } catch {
      lost.hidden = false;
    }
  }

  async function live() {
    if (!document.hidden) await refresh();
    setTimeout(live, 2000);
  }
  setTimeout(live, 2000);
})();
