// Starts Redoc with colours for the reader's choice of light or dark.
"use strict";
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const colors = {
  primary: { main: "#7ab8ff" },
  success: { main: "#5fd38d" },
  text: { primary: "#e6e9ee", secondary: "#b3bac5" },
  border: { dark: "#4a5260", light: "#343b46" },
  http: { get: "#5fd38d", post: "#7ab8ff", put: "#e0b14a", delete: "#ff8a80" },
};
const shade = {
  colors,
  schema: { nestedBackground: "#1c2129", linesColor: "#5a6472", requireLabelColor: "#ff8a80", typeNameColor: "#9fb3c8", typeTitleColor: "#9fb3c8" },
  sidebar: { backgroundColor: "#1c2129", textColor: "#d5dae2" },
  rightPanel: { backgroundColor: "#0f1217" },
  codeBlock: { backgroundColor: "#171b22" },
  typography: { code: { color: "#ffb38a", backgroundColor: "#262c36" }, links: { color: "#7ab8ff", visited: "#7ab8ff" } },
};
const fonts = { typography: { fontFamily: "system-ui, sans-serif", headings: { fontFamily: "system-ui, sans-serif" } } };
const merge = (a, b) => Object.fromEntries([...new Set([...Object.keys(a), ...Object.keys(b)])].map((key) =>
  [key, a[key] instanceof Object && b[key] instanceof Object ? merge(a[key], b[key]) : b[key] ?? a[key]]));
document.documentElement.classList.toggle("redoc-dark", dark.matches);
dark.addEventListener("change", () => window.location.reload());
Redoc.init(
  "/openapi.json",
  { theme: dark.matches ? merge(shade, fonts) : fonts, expandResponses: "200,202", hideDownloadButton: false },
  document.getElementById("page"),
);
