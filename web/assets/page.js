// Keeps the health page alive: the server says when something has changed, and
// the page then takes over what differs from a fresh copy of itself. Without this
// file the page is the same, as of when it was loaded.
"use strict";

const root = document.documentElement;
root.classList.add("js");

let loading = false; // a fresh copy is on its way
let stale = false; // something changed since it was asked for
let pressed = false; // a button may be on its way down: it must not be swapped before it is up

for (const event of ["pointerdown", "pointerup", "pointercancel"]) {
  addEventListener(event, () => {
    pressed = event === "pointerdown";
    if (!pressed && stale) setTimeout(refresh, 250);
  });
}

// refresh takes over the sections that differ. At most one copy is on its way.
async function refresh() {
  if (loading || pressed) {
    stale = true;
    return;
  }
  stale = false;
  loading = true;
  try {
    const answer = await fetch("/", { headers: { Accept: "text/html" } });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (!fresh.getElementById("state")) {
      location.reload(); // the session has ended: the server asks for a login
      return;
    }
    if (pressed) stale = true;
    else takeOver(fresh);
    contact(true);
  } catch {
    contact(false);
  } finally {
    loading = false;
  }
  if (stale) setTimeout(refresh, 250);
}

const focusable = "a[href], button, summary, input, select, [tabindex]";

function takeOver(fresh) {
  for (const now of fresh.querySelectorAll("[data-live]")) {
    const old = document.getElementById(now.id);
    if (!old || old.outerHTML === now.outerHTML) continue;
    for (const details of old.querySelectorAll("details[open][id]")) {
      now.querySelector("#" + CSS.escape(details.id))?.setAttribute("open", "");
    }
    const focus = [...old.querySelectorAll(focusable)].indexOf(document.activeElement);
    old.replaceWith(document.adoptNode(now));
    if (focus >= 0) now.querySelectorAll(focusable)[focus]?.focus({ preventScroll: true });
    if (now.id === "state" && old.dataset.state !== now.dataset.state) announce(now);
  }
}

// announce tells a screen reader, the title and the icon of the tab.
function announce(section) {
  section.classList.add("fresh");
  root.dataset.state = section.dataset.state;
  document.title = section.dataset.title;
  const headline = section.querySelector("#headline")?.textContent ?? "";
  document.getElementById("announce").textContent = section.querySelector("h1").textContent.trim() + ". " + headline;
  const tone = ["ok", "warn", "bad", "work", "unknown"].find((t) => section.classList.contains(t));
  document.getElementById("icon").href = "/assets/icon-" + tone + ".svg";
}

// contact shows when the page no longer knows what it shows.
function contact(there) {
  const lost = document.getElementById("lost");
  if (there === lost.hidden) return;
  lost.hidden = there;
  if (there) {
    delete root.dataset.contact;
    return;
  }
  root.dataset.contact = "lost";
  const now = new Date().toISOString().slice(0, 19).replace("T", " ");
  lost.textContent = "Unknown: no contact with the server since " + now + " UTC. See whether it runs; this page keeps trying. What is shown below is older.";
  document.getElementById("icon").href = "/assets/icon-unknown.svg";
  document.title = "UNKNOWN - EngramFS";
}

function listen() {
  const stream = new EventSource("/api/v1/stream");
  for (const kind of ["health", "job", "event", "sample"]) stream.addEventListener(kind, refresh);
  stream.onerror = () => {
    contact(false);
    if (stream.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
    setTimeout(() => {
      refresh(); // asks for a login if the session has ended
      listen();
    }, 3000);
  };
}

listen();
