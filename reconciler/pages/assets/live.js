// Pages can be read without this. It keeps a live page fresh, lets a log grow, and narrows a list while one types.
"use strict";
(() => {
  const live = document.body.dataset.live === "yes";
  const LOG_CHARACTERS_MAX = 2_000_000, FAILURES_MAX = 60;
  const refreshed = 4000, followed = 1000;
  const main = () => document.getElementById("main");

  // ------------------------------------------------------------------ search
  const shows = () => document.getElementById("shown");
  const said = shows() ? shows().textContent : "";
  function narrow(word) {
    let count = 0;
    for (const each of document.querySelectorAll(".run")) {
      each.hidden = !each.dataset.search.toLowerCase().includes(word.toLowerCase());
      count += each.hidden ? 0 : 1;
    }
    shows().textContent = word ? `${count} of the runs on this page` : said;
  }
  const form = document.querySelector("[data-search-form]");
  if (form && !live) {
    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.elements.q.addEventListener("input", () => narrow(form.elements.q.value.trim()));
  }

  // ------------------------------------------------------------------ a log that follows
  let failures = 0;
  async function follow(log) {
    try {
      const answer = await fetch(`${log.dataset.follow}?from=${log.dataset.offset}`, { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.statusText);
      const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
      const text = await answer.text();
      if (text) {
        log.append(text);
        if (log.textContent.length > LOG_CHARACTERS_MAX) log.textContent = log.textContent.slice(-LOG_CHARACTERS_MAX);
        log.nextElementSibling?.classList.contains("empty") && log.nextElementSibling.remove();
      }
      log.dataset.offset = answer.headers.get("X-Log-Offset");
      if (atEnd) log.scrollTop = log.scrollHeight;
      failures = 0;
      if (answer.headers.get("X-Log-Ended") === "yes" && !text) {
        document.getElementById("log-said").textContent = "It has ended; this is all of it.";
        return;
      }
    } catch {
      failures += 1;
    }
    if (failures < FAILURES_MAX) setTimeout(follow, followed * Math.min(10, 1 + failures), log);
  }
  const log = document.querySelector("[data-follow]");
  if (log) {
    log.scrollTop = log.scrollHeight;
    follow(log);
    return;
  }

  // ------------------------------------------------------------------ a page that stays fresh
  let tag = "";
  const busy = () => document.hidden || document.activeElement?.id === "q" || String(getSelection()) !== "";
  async function refresh() {
    if (!busy()) {
      try {
        const answer = await fetch(location.href, { headers: tag ? { "If-None-Match": tag } : {} });
        if (answer.status === 200) {
          const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
          const changed = tag !== "" && answer.headers.get("ETag") !== tag;
          tag = answer.headers.get("ETag") || "";
          if (changed) swap(fresh);
        }
        failures = 0;
      } catch {
        failures += 1;
        document.getElementById("said").textContent = "The reconciler does not answer; this page is as it was.";
      }
    }
    if (failures < FAILURES_MAX) setTimeout(refresh, refreshed * Math.min(10, 1 + failures));
  }
  function swap(fresh) {
    const opened = [...document.querySelectorAll("details[id][open]")].map((each) => each.id);
    const focused = document.activeElement?.getAttribute("href");
    main().replaceWith(fresh.getElementById("main"));
    document.getElementById("said").replaceWith(fresh.getElementById("said"));
    for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
    if (focused) document.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  }
  if (live) refresh();
})();
