// Keys, the browser's token and copying. Everything else is Gradio's.
window.sigmalab = (() => {
  const KEY = "sigmalab-token";
  const read = (store, key = KEY) => { try { return store().getItem(key) || ""; } catch { return ""; } };
  const keep = (store, value, key = KEY) => { try { store().setItem(key, value); } catch { /* private mode: it lives as long as the page */ } };
  const tab = () => window.sessionStorage, browser = () => window.localStorage;
  // What an event is about: the nearest element of this kind around its target.
  const around = (event, selector) => event.target.closest && event.target.closest(selector);

  // sessionStorage is this tab's own and survives a reload; localStorage lets a new tab find what a closed one left.
  const identify = () => JSON.stringify({ tab: read(tab), browser: read(browser) });
  const remember = (token) => { keep(tab, token); keep(browser, token); tell(); filled(); unfold(unfolded()); recognized(); if (named()) front(named()); };
  // Until the token is known nothing is asked for in its name; an answer that never comes must not hold the tabs up.
  let recognized = null;
  const known = new Promise((resolve) => { recognized = resolve; setTimeout(resolve, 5000); });

  // The content of a tab comes when it is first opened, or when something is put into it: `sent` waits for that.
  const here = new Map(), arrival = (name) => {
    if (!here.has(name)) { let come; here.set(name, [new Promise((resolve) => { come = resolve; }), come]); }
    return here.get(name);
  };
  const arrived = (name) => { arrival(name)[1](); unfold(unfolded()); };
  const sent = (name) => Promise.race([arrival(name)[0], new Promise((resolve) => setTimeout(resolve, 20000))]).then(() => []);
  // Of several tabs, what the one that began a job last has left.
  document.addEventListener("click", (event) => {
    if (around(event, "button.generate") && read(tab)) keep(browser, read(tab));
  });

  // A button that is off while its job runs loses the keyboard's focus, which comes back with it.
  let focused = null;
  document.addEventListener("focusin", (event) => { focused = event.target; });
  new MutationObserver((changes) => {
    const back = changes.some(({ target }) => target === focused && !target.disabled);
    if (back && document.activeElement === document.body) focused.focus({ preventScroll: true });
  }).observe(document.documentElement, { attributes: true, attributeFilter: ["disabled"], subtree: true });

  // One place that is never replaced tells screen readers how a run ended; progress is for the eye, and in the bar.
  const tell = () => {
    if (document.querySelector("#sigmalab-told")) return;
    const told = document.createElement("div");
    told.id = "sigmalab-told";
    told.setAttribute("role", "status");
    document.body.append(told);
    // The page as a whole is watched: what a tab says is there once the tab is opened.
    const messageOf = ({ target }) => (target.closest ? target : target.parentElement)?.closest("#txt2img-message, #img2img-message, #upscale-message");
    new MutationObserver((changes) => {
      for (const box of new Set(changes.map(messageOf).filter(Boolean))) {
        const said = [...box.querySelectorAll("[data-said]")].map((each) => each.innerText.trim()).join(" ");
        if (said && told.textContent !== said) told.textContent = said;
        filled(true);
      }
    }).observe(document.body, { childList: true, subtree: true, characterData: true });
  };

  // A page that comes back is empty until it is filled as it was, and would say that nothing was made: until then, and
  // until a job that it left at work is followed again, style.css shows that something is to come.
  const LEFT = "sigmalab-left", root = document.documentElement;
  const filled = (followed = false) => { if (followed || !read(tab, LEFT)) root.classList.remove("reopening"); };
  window.addEventListener("pagehide", () => keep(tab, document.querySelector("button.stop:not(:disabled)") ? "at work" : "", LEFT));
  if (read(tab)) {
    root.classList.add("reopening");
    setTimeout(filled, 10000, true);
    document.addEventListener("input", () => filled(true), { once: true });
  }

  // Arrow keys go along a row of tabs, the history's pictures, and chips, which are one stop of the Tab key (WAI-ARIA).
  document.addEventListener("keydown", (event) => {
    const one = around(event, "[role=tab], [data-row] button, #history-gallery button");
    const ways = { ArrowRight: (i, n) => (i + 1) % n, ArrowLeft: (i, n) => (i + n - 1) % n, Home: () => 0, End: (i, n) => n - 1 };
    if (!one || !(event.key in ways)) return;
    const row = [...one.closest("[role=tablist], [data-row], #history-gallery").querySelectorAll("[role=tab], button")].filter((each) => each.offsetParent && !each.disabled);
    const next = row[ways[event.key](row.indexOf(one), row.length)];
    event.preventDefault();
    if (!one.closest("[data-row]")) next.click(); else [one.tabIndex, next.tabIndex] = [-1, 0];
    next.focus();
  });

  // The tab in front, and the tool that is open in it, are in the address, so that a reload, a link and Back find them.
  const fronts = () => [...document.querySelectorAll(".tabs > .tab-wrapper [role=tab]")].filter((each) => !each.closest(".tabitem"));
  const inside = () => [...document.querySelectorAll(".tabitem > .tabs > .tab-wrapper [role=tab], .tabitem .column > .tabs > .tab-wrapper [role=tab]")].filter((each) => each.offsetParent);
  const named = () => window.location.hash.slice(1);
  const selected = (tabs) => tabs.find((each) => each.ariaSelected === "true");
  const address = () => {
    const top = selected(fronts()), tools = inside(), tool = selected(tools);
    return [top, tool !== tools[0] && tool].filter(Boolean).map((each) => each.dataset.tabId).join("/");
  };
  const bring = (tab) => { if (tab && tab.ariaSelected !== "true") tab.click(); };
  // What an address names: its tool may have to be built first.
  let opening = "";
  const front = (name) => {
    const [top, tool] = name.split("/");
    bring(fronts().find((each) => each.dataset.tabId === top));
    opening = name;
    const open = (tries) => {
      if (opening !== name) return;
      const tools = inside(), wanted = tool ? tools.find((each) => each.dataset.tabId === tool) : tools[0];
      bring(wanted);
      if (wanted || !tool || !tries) opening = ""; else setTimeout(() => open(tries - 1), 100);
    };
    open(100);
  };
  new MutationObserver((changes) => {
    if (!changes.some(({ target }) => target.role === "tab" && target.ariaSelected === "true")) return;
    const now = address();
    if (opening && now.split("/")[0] !== opening.split("/")[0]) opening = "";
    if (!now || opening || now === (named() || "txt2img")) return;
    window.history.pushState(window.history.state, "", `#${now}`);
  }).observe(document.documentElement, { attributes: true, attributeFilter: ["aria-selected"], subtree: true });
  document.addEventListener("click", (event) => { const asked = around(event, "[data-go]"); if (asked) front(asked.dataset.go); });
  window.addEventListener("popstate", () => front(named() || "txt2img"));

  const visible = (selector) => [...document.querySelectorAll(selector)].find((button) => button.offsetParent && !button.disabled);
  const press = (selector) => { const button = visible(selector); if (button) button.click(); return Boolean(button); };

  // The values of a form on their way to an event of the server's, under the number of the event that gathered them.
  const waiting = new Map();
  const gathered = (key, values) => { waiting.set(key, values); return []; };
  const given = (key) => waiting.get(key);

  // Gradio tells an input twice when something is chosen from a menu, and once when a menu is only left: what a menu
  // holds is compared with what it held before. Answers a number that is new with each choice, or no change.
  const held = new Map();
  const entered = (menu, name) => { held.set(menu, name); };
  const chosen = (key, menu, name, values) => {
    if (held.get(menu) === name) return NO_CHANGE;
    entered(menu, name);
    gathered(key, values);
    return performance.now();
  };

  // A number that is new with each turn, for what follows changes; no change of it before the form has been filled, if
  // it waits for that, or while the tab that it is for is not in front.
  const begun = new Set(), NO_CHANGE = { __type__: "update" };
  const inFront = (name) => Boolean(document.querySelector(`[role=tab][data-tab-id="${name}"][aria-selected=true]`));
  const turn = (number, waits, tab) => ((waits && !begun.has(number)) || (tab && !inFront(tab)) ? NO_CHANGE : performance.now());
  const begin = (number, tab) => { begun.add(number); return turn(number, false, tab); };

  // Of changes that come close together only the last goes on, a moment after it: nothing waits for the others.
  const MOMENT = 120, coming = new Map();
  const settled = (number) => new Promise((resolve) => {
    clearTimeout(coming.get(number));
    coming.set(number, setTimeout(() => resolve([]), MOMENT));
  });

  document.addEventListener("keydown", (event) => {
    // Gradio 6.31 opens a menu at any key, the one that leaves it included, and then never closes it.
    if (event.key === "Tab" && event.target.role === "combobox") event.stopPropagation();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      if (press(".main-run button.generate")) { event.preventDefault(); event.stopPropagation(); }
    } else if (event.key === "Escape" && !event.defaultPrevented && !document.querySelector("[role=listbox], dialog[open]")) {
      press("button.stop");
    }
  }, true);

  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Without https the clipboard API is missing; a selected text box still works.
      const box = document.createElement("textarea");
      box.value = text;
      document.body.append(box);
      box.select();
      document.execCommand("copy");
      box.remove();
    }
  };

  // A button says for a moment what it did.
  const say = (button, text) => {
    const label = button.textContent;
    button.textContent = text;
    setTimeout(() => { button.textContent = label; }, 1200);
  };

  // The settings in the address as the page was opened, since an address that names a tab does without them; none if
  // the page was only reloaded: then what was edited since counts.
  const asked = window.location.search;
  const link = () => {
    const [opening] = performance.getEntriesByType("navigation");
    return opening && opening.type === "reload" ? "" : asked;
  };
  // Put settings into the address, beside Gradio's own names in it, and copy it.
  const hold = async (query, mode) => {
    if (!query) return;
    const own = window.location.search.slice(1).split("&").filter((part) => part.startsWith("__"));
    window.history.replaceState(window.history.state, "", `${window.location.pathname}?${[...own, query].join("&")}${window.location.hash}`);
    await copy(`${window.location.origin}${window.location.pathname}?${query}`);
    say(document.querySelector(`#${mode}-link`), "Link copied");
  };

  // A list shows the rows that have all words of what is typed.
  document.addEventListener("input", ({ target }) => {
    if (!target.dataset || !target.dataset.find) return;
    const words = target.value.toLowerCase().split(/\s+/);
    document.querySelectorAll(target.dataset.find).forEach((row) => { row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word)); });
  });

  document.addEventListener("click", async (event) => {
    const button = around(event, "button[data-copy]");
    if (!button) return;
    await copy(button.dataset.copy);
    say(button, "Copied");
  });

  // Prompts that are clicked together: chips below a prompt, pictures of the wall, names that are offered for a word.
  const boxOf = (mode) => document.querySelector(`#${mode}-prompt textarea`);
  const write = (box, text) => { box.value = text; box.dispatchEvent(new Event("input", { bubbles: true })); };
  const quoted = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  // A prompt as the thing that it names and a choice of each addition, "" where there is none.
  const taken = (text, additions) => {
    let thing = text;
    const choices = additions.map(({ phrase, choices }) => {
      const [head, tail] = phrase.split("{}");
      const lead = head.replace(/^,/, "").trim();
      const names = choices.map(quoted).join("|");
      const pattern = new RegExp(`[,\\s]*(?:\\b${quoted(lead)}\\s+)?\\b(${names})${quoted(tail)}\\b,?`, "i");
      const found = thing.match(pattern);
      if (found) thing = thing.replace(pattern, " ");
      return found ? found[1].toLowerCase() : "";
    });
    return { thing: thing.replace(/\s+/g, " ").replace(/^[\s,]+|[\s,]+$/g, ""), choices };
  };
  const joined = ({ thing, choices }, additions) =>
    thing + choices.map((choice, i) => (choice ? additions[i].phrase.replace("{}", choice) : "")).join("");
  const any = (list) => list[Math.floor(Math.random() * list.length)];
  const rewritten = (asked, text, chips) => {
    if ("prompt" in asked) return asked.prompt;
    if ("complete" in asked) {
      const words = text.trimEnd().split(/\s+/);
      return [...words.slice(0, words.length - Number(asked.typed)), asked.complete].join(" ");
    }
    const additions = JSON.parse(chips.dataset.additions), parts = taken(text, additions);
    if ("thing" in asked) parts.thing = asked.thing;
    if ("addition" in asked) {
      const place = Number(asked.addition);
      parts.choices[place] = parts.choices[place] === asked.choice.toLowerCase() ? "" : asked.choice;
    }
    if ("dice" in asked) {
      parts.thing = any(JSON.parse(chips.dataset.things));
      parts.choices = additions.map(({ choices }) => (Math.random() < 0.6 ? any(choices) : ""));
    }
    return joined(parts, additions);
  };
  document.addEventListener("click", (event) => {
    const asked = around(event, "[data-mode] button:not([data-go])");
    const mode = asked && asked.closest("[data-mode]").dataset.mode, box = mode && boxOf(mode);
    if (!box) return;
    write(box, rewritten(asked.dataset, box.value, document.querySelector(`#${mode}-chips [data-things]`)));
    // A frame later: by then Gradio has heard of the prompt.
    if ("draw" in asked.dataset) requestAnimationFrame(() => setTimeout(() => press(`#${mode}-generate`), 0));
  });

  // A size's button moves the two sliders; the last one opens them.
  document.addEventListener("click", (event) => {
    const asked = around(event, "[data-size]");
    if (!asked) return;
    const mode = asked.closest("[data-form]").dataset.form;
    const [width, height] = ["width", "height"].map((side) => document.querySelector(`#${mode}-${side} input[type=number]`));
    if (asked.dataset.size === "other") {
      unfold(true);
      width.focus();
      return;
    }
    asked.dataset.size.split(" ").forEach((side, i) => write([width, height][i], side));
  });

  // Whoever has opened the settings for experts finds them open the next time.
  const EXPERT = "sigmalab-expert";
  const unfolded = () => root.classList.contains("expert-open");
  const unfold = (wanted) => {
    root.classList.toggle("expert-open", wanted);
    document.querySelectorAll("[data-expert]").forEach((each) => each.setAttribute("aria-expanded", wanted));
  };
  unfold(Boolean(read(browser, EXPERT)));
  document.addEventListener("click", (event) => {
    if (!around(event, "[data-expert]")) return;
    const wanted = !unfolded();
    unfold(wanted);
    keep(browser, wanted ? "1" : "", EXPERT);
  });

  document.addEventListener("click", (event) => {
    const pixels = around(event, "[data-pixels]");
    if (pixels) pixels.setAttribute("aria-pressed", pixels.closest(".result").classList.toggle("pixels"));
    // The settings of a phone: opened by their button, closed by it and by a touch elsewhere.
    const sheet = around(event, "[data-sheet]");
    const open = document.querySelector(".bench.sheet-open");
    const bench = sheet ? sheet.closest(".bench") : open;
    if (!bench || (open && !sheet && around(event, ".controls, [role=listbox]"))) return;
    const button = bench.querySelector("[data-sheet]"), shown = bench.classList.toggle("sheet-open");
    button.setAttribute("aria-expanded", shown);
    button.textContent = shown ? "Done" : "Settings";
  });

  return { identify, remember, link, hold, gathered, given, entered, chosen, turn, begin, settled, known, arrived, sent };
})();
