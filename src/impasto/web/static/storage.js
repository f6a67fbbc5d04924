// What the browser keeps between visits. Where a person has blocked that, already looking at `localStorage` throws: the pages
// work then, and forget.

/** What was kept under `name`; "": nothing. */
export function recall(name) {
  try {
    return localStorage.getItem(name) ?? "";
  } catch {
    return "";
  }
}

/** Keep `text` under `name`; "" forgets it. */
export function remember(name, text) {
  try {
    if (text) localStorage.setItem(name, text);
    else localStorage.removeItem(name);
  } catch {
    // blocked, or full: it holds for this page
  }
}
