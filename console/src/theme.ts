// Light or dark: as the system has it, or as the user has chosen.

export type Theme = "auto" | "light" | "dark";

const KEY = "leeway.theme";
export const THEME_EVENT = "leeway-theme";

export function theme(): Theme {
  const stored = localStorage.getItem(KEY);
  return stored === "light" || stored === "dark" ? stored : "auto";
}

export function apply(next: Theme): void {
  if (next === "auto") {
    localStorage.removeItem(KEY);
    delete document.documentElement.dataset.theme;
  } else {
    localStorage.setItem(KEY, next);
    document.documentElement.dataset.theme = next;
  }
  dispatchEvent(new Event(THEME_EVENT));
}

/** Calls back when the colours have changed. */
export function onThemeChange(listener: () => void): () => void {
  const media = matchMedia("(prefers-color-scheme: dark)");
  media.addEventListener("change", listener);
  addEventListener(THEME_EVENT, listener);
  return () => {
    media.removeEventListener("change", listener);
    removeEventListener(THEME_EVENT, listener);
  };
}

/** Returns a colour of the style sheet, as a canvas takes it. */
export function colour(name: string, near: Element): string {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  probe.hidden = true;
  near.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}
