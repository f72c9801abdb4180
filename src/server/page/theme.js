// Before the page is painted, so that it does not flash: the theme that was chosen, else the system's.
try {
  const theme = localStorage.getItem("metal-marlin-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // a browser without storage follows the system
}
