// The page's own settings, which the browser keeps: the sheet that the header's button opens.
(() => {
  const PREFIX = "sigmalab-", THEME = "__theme";
  const read = (name) => { try { return localStorage.getItem(PREFIX + name) || ""; } catch { return ""; } };
  const keep = (name, value) => { try { localStorage.setItem(PREFIX + name, value); } catch { /* private mode: as long as the page */ } };

  // Light or dark: as the system has it until somebody chooses. Gradio takes the choice from the address.
  const address = (name) => {
    const url = new URL(window.location.href);
    if (name) url.searchParams.set(THEME, name); else url.searchParams.delete(THEME);
    window.history.replaceState(window.history.state, "", url);
  };
  const system = () => (window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  const look = (name) => {
    document.body.classList.toggle("dark", (name || system()) === "dark");
    address(name);
    keep("theme", name);
  };
  const wanted = read("theme");
  if (wanted && !new URLSearchParams(window.location.search).has(THEME)) address(wanted);

  // The server reads how often it is to send previews.
  const previews = (name) => {
    document.cookie = `sigmalab-previews=${name}; path=/; max-age=31536000; samesite=lax`;
    keep("previews", name);
  };
  // The box in History, which it has when it is opened.
  const cells = (on) => {
    keep("cells", on ? "1" : "");
    const box = document.querySelector("#history-cells input");
    if (box && box.checked !== on) box.click();
  };
  const apply = { theme: look, previews, cells };

  document.addEventListener("click", (event) => {
    const at = (selector) => event.target.closest && event.target.closest(selector);
    const sheet = document.querySelector("#settings-sheet");
    if (at("[data-theme-toggle]")) look(document.body.classList.contains("dark") ? "light" : "dark");
    // The dialog itself is what is around its content.
    if (at("[data-close]") || event.target === sheet) sheet.close();
    if (!at("[data-settings]")) return;
    for (const box of sheet.querySelectorAll("[name]")) {
      if (box.type === "checkbox") box.checked = Boolean(read(box.name)); else box.checked = box.value === read(box.name);
    }
    sheet.showModal();
  });
  document.addEventListener("change", ({ target }) => {
    if (target.closest && target.closest("#settings-sheet")) apply[target.name](target.type === "checkbox" ? target.checked : target.value);
  });
  // Gradio builds the tab some time after the script.
  new MutationObserver((changes, observer) => {
    if (!document.querySelector("#history-cells input")) return;
    observer.disconnect();
    if (read("cells")) cells(true);
  }).observe(document.documentElement, { childList: true, subtree: true });
})();
