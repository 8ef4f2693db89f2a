// The Schedule tab: the list of sigmas as a curve whose points one drags, or moves with the arrow keys. What is dragged
// goes into the text box and becomes the schedule Custom; the server checks it as it checks what is typed.
(() => {
  const WIDTH = 320, HEIGHT = 170, EDGE = 14, MOST = 150, APART = 1.001, STEP = 1.05;
  const SVG = "http://www.w3.org/2000/svg";
  const undone = []; // texts of the box before each change, newest last
  const editor = () => document.querySelector(".curve-editor");
  const part = (name) => document.querySelector(editor().dataset[name]);
  const made = (name, attributes) => {
    const element = document.createElementNS(SVG, name);
    Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
    return element;
  };
  const shown = (sigma) => String(Number(sigma.toPrecision(4)));

  // The numbers of a text as they are written, without the 0 at its end.
  const split = (text) => {
    const words = text.split(/[\s,;()[\]]+/).filter(Boolean);
    return words.length > 1 && Number(words[words.length - 1]) === 0 ? words.slice(0, -1) : words;
  };
  // The sigmas of a text; null where something is no positive number, or they do not fall.
  const read = (text) => {
    const sigmas = split(text).map(Number);
    const fall = sigmas.every((sigma, i) => sigma > 0 && Number.isFinite(sigma) && (!i || sigma < sigmas[i - 1]));
    return sigmas.length > 1 && sigmas.length <= MOST && fall ? sigmas : null;
  };

  // Places of the points: steps from left to right, the logarithm of sigma from below. `ends` stay while one is dragged.
  let sigmas = null, ends = [0, 1], held = null;
  const x = (i) => EDGE + (i * (WIDTH - 2 * EDGE)) / (sigmas.length - 1);
  const y = (sigma) => EDGE + ((ends[1] - Math.log(sigma)) * (HEIGHT - 2 * EDGE)) / (ends[1] - ends[0]);
  const sigmaAt = (top) => Math.exp(ends[1] - ((top - EDGE) * (ends[1] - ends[0])) / (HEIGHT - 2 * EDGE));
  const between = (i, sigma) => {
    const above = i ? sigmas[i - 1] / APART : Infinity, below = i + 1 < sigmas.length ? sigmas[i + 1] * APART : 1e-6;
    return Math.min(above, Math.max(below, sigma));
  };

  const place = () => {
    editor().querySelector("polyline").setAttribute("points", sigmas.map((sigma, i) => `${x(i)},${y(sigma)}`).join(" "));
    editor().querySelectorAll("circle").forEach((circle, i) => {
      circle.setAttribute("cy", y(sigmas[i]));
      circle.setAttribute("aria-valuenow", shown(sigmas[i]));
      circle.setAttribute("aria-valuetext", `sigma ${shown(sigmas[i])}`);
    });
  };
  const draw = (focus = 0) => {
    const box = editor(), svg = box.querySelector("svg");
    sigmas = read(part("list").value);
    box.classList.toggle("empty", !sigmas);
    box.querySelector("[data-curve-undo]").disabled = !undone.length;
    svg.replaceChildren();
    if (!sigmas) return;
    const room = 0.15 * (Math.log(sigmas[0]) - Math.log(sigmas[sigmas.length - 1]));
    ends = [Math.log(sigmas[sigmas.length - 1]) - room, Math.log(sigmas[0]) + room];
    svg.append(made("polyline", {}));
    sigmas.forEach((sigma, i) => {
      svg.append(made("circle", {
        cx: x(i), r: 5, role: "slider", tabindex: i === focus ? 0 : -1, "data-point": i,
        "aria-label": `Step ${i + 1}`, "aria-orientation": "vertical",
      }));
    });
    place();
  };
  const put = (text) => {
    const box = part("list");
    box.value = text;
    box.dispatchEvent(new Event("input", { bubbles: true }));
    // A frame later: by then Gradio has heard of the list.
    requestAnimationFrame(() => setTimeout(() => part("use").click(), 0));
  };
  // A point has been moved: the other numbers stay as they were written.
  const keep = (before, moved) => {
    undone.push(before);
    put(split(before).map((word, i) => (i === moved ? shown(sigmas[i]) : word)).join(", "));
    draw(moved);
  };

  document.addEventListener("input", ({ target }) => { if (editor() && target === part("list")) draw(); });
  document.addEventListener("click", ({ target }) => {
    if (!target.closest || !editor()) return;
    const edit = target.closest("[data-curve-edit]"), undo = target.closest("[data-curve-undo]");
    if (edit) {
      undone.push(part("list").value);
      put(part("from").value);
      draw();
    } else if (undo && undone.length) {
      put(undone.pop());
      draw();
    }
  });

  document.addEventListener("pointerdown", (event) => {
    if (!event.target.matches || !event.target.matches(".curve-editor circle")) return;
    event.preventDefault();
    event.target.focus();
    event.target.setPointerCapture(event.pointerId);
    held = { circle: event.target, before: part("list").value, moved: false };
  });
  document.addEventListener("pointermove", (event) => {
    if (!held) return;
    const svg = held.circle.ownerSVGElement, at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const i = Number(held.circle.dataset.point);
    sigmas[i] = between(i, sigmaAt(Math.min(HEIGHT, Math.max(0, at.y))));
    held.moved = true;
    place();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    document.addEventListener(end, () => {
      if (!held) return;
      const { circle, before, moved } = held;
      held = null;
      if (moved) keep(before, Number(circle.dataset.point));
      editor().querySelector(`[data-point="${circle.dataset.point}"]`).focus();
    });
  }
  document.addEventListener("keydown", (event) => {
    if (!event.target.matches || !event.target.matches(".curve-editor circle")) return;
    const i = Number(event.target.dataset.point), ways = { ArrowUp: STEP, ArrowDown: 1 / STEP };
    const next = { ArrowLeft: i - 1, ArrowRight: i + 1 }[event.key];
    if (event.key in ways) {
      event.preventDefault();
      const before = part("list").value;
      sigmas[i] = between(i, sigmas[i] * ways[event.key]);
      keep(before, i);
      editor().querySelector(`[data-point="${i}"]`).focus();
    } else if (next in sigmas) {
      event.preventDefault();
      event.target.tabIndex = -1;
      const other = editor().querySelector(`[data-point="${next}"]`);
      other.tabIndex = 0;
      other.focus();
    }
  });
})();

// Plotly takes as long to begin as the rest of the tab. It begins while nobody does anything, where there is room for it.
window.sigmalab.early = async (module) => {
  if (navigator.connection?.saveData || !matchMedia("(min-width: 768px)").matches) return;
  const QUIET = 3000, begun = new AbortController();
  let moved = performance.now();
  const move = () => { moved = performance.now(); };
  ["keydown", "pointermove", "pointerdown", "wheel", "click"].forEach((kind) => document.addEventListener(kind, move, { capture: true, passive: true, signal: begun.signal }));
  const busy = () => performance.now() - moved < QUIET || document.hidden || document.querySelector("button.stop:not(:disabled)");
  await window.sigmalab.known;
  while (busy()) await new Promise((resolve) => setTimeout(resolve, 500));
  begun.abort();
  import(new URL(module, document.baseURI).href).catch(() => { /* the plot fetches it again */ });
};
