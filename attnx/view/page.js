// The page of attnx.view.to_html: fills Bokeh's figures with the weights that are chosen, by mouse or keyboard.
"use strict";

(async () => {
  const byId = id => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const weights = await Weights.read(data), {queries, keys, layers, heads, maps} = weights;
  const L = queries.length, S = keys.length;

  // What is shown: a layer and one of its maps, the cell under the cursor, the token pointed at and the one pinned.
  const chosen = {layer: data.layer, map: data.head}, cursor = {row: 0, column: 0, on: false};
  let pointed = null, pinned = null;

  const clamp = (value, least, most) => Math.max(least, Math.min(most, value));
  const same = (one, other) => one?.side === other?.side && one?.index === other?.index;
  const say = text => { byId("reading").textContent = text; };

  // --- figures ---------------------------------------------------------------------------------

  const library = document.createElement("script");
  library.textContent = await (await inflate(data.library)).text();
  document.head.append(library);

  const plots = {};
  for (const [name, item] of Object.entries(data.figures)) {
    const [view] = (await Bokeh.embed.embed_item(item, name)).roots;
    plots[name] = {view, model: view.model, named: part => view.model.document.get_model_by_name(part)};
  }
  const fill = (plot, part, columns) => { plots[plot].named(part).data_source.data = columns; };

  function resize(plot, width, height) {
    plots[plot].model.setv({frame_width: Math.round(width), frame_height: Math.round(height)});
  }

  // A pointer's place in a figure's own units, and the other way.
  function place(plot, event) {
    const {el, frame} = plots[plot].view, box = el.getBoundingClientRect();
    return {x: frame.x_scale.invert(event.clientX - box.left), y: frame.y_scale.invert(event.clientY - box.top)};
  }
  function onScreen(plot, x, y) {
    const {el, frame} = plots[plot].view, box = el.getBoundingClientRect();
    return {left: box.left + frame.x_scale.compute(x), top: box.top + frame.y_scale.compute(y)};
  }

  // Scroll until a point is seen: below the header, and inside the box that a wide matrix scrolls in.
  function reveal(plot, x, y) {
    const {left, top} = onScreen(plot, x, y), scroll = byId(plot).parentElement, box = scroll.getBoundingClientRect();
    if (left < box.left + 30 || left > box.right - 30) scroll.scrollLeft += left - (box.left + box.right) / 2;
    const covered = document.querySelector("header").getBoundingClientRect().bottom;
    if (top < covered + 30 || top > innerHeight - 30) scrollBy({top: top - innerHeight / 2, behavior: "instant"});
  }

  const pen = document.createElement("canvas").getContext("2d");
  function widthOf(text, pixels) {  // in bold, which a label may become
    pen.font = `bold ${pixels}px ${getComputedStyle(document.body).fontFamily}`;
    return pen.measureText(text).width;
  }
  const widest = (labels, pixels) => Math.max(...labels.map(label => widthOf(label, pixels)));
  function cut(text, pixels, width) {
    if (widthOf(text, pixels) <= width) return text;
    const letters = Array.from(text);
    while (letters.length > 1 && widthOf(letters.join("") + "\u2026", pixels) > width) letters.pop();
    return letters.join("") + "\u2026";
  }

  // --- matrix ----------------------------------------------------------------------------------

  function layMatrix(room, share) {
    const [above] = plots.matrix.model.above, [beside] = plots.matrix.model.left;
    const width = axis => widest([...axis.major_label_overrides.values()].map(label => label.text), 12);
    const left = width(beside) + 12;
    let cell = Math.floor((share - left) / S);
    if (cell < 9) cell = Math.floor((room - left) / S);
    cell = clamp(Math.min(cell, Math.max(16, Math.floor((innerHeight - 300) / L))), 9, 44);
    above.major_label_orientation = width(above) < cell ? "horizontal" : "vertical";
    for (const axis of [above, beside]) axis.major_label_text_font_size = `${clamp(cell - 1, 8, 12)}px`;
    resize("matrix", S * cell, L * cell);
    return S * cell + left;
  }

  function drawMatrix() {
    const shown = weights.matrix(chosen), cells = plots.matrix.named("cells").data_source;
    cells.data.image[0].set(shown);
    cells.change.emit();
    plots.matrix.named("cells colours").high = largest(shown);
    const missing = [...shown.keys()].filter(index => isNaN(shown[index]));
    fill("matrix", "missing", {x: missing.map(i => i % S + 0.5), y: missing.map(i => Math.floor(i / S) + 0.5)});
    if (cursor.on) moveCursor(cursor.row, cursor.column);
  }

  function moveCursor(row, column) {
    row = clamp(row, 0, L - 1);
    column = clamp(column, 0, S - 1);
    Object.assign(cursor, {row, column, on: true});
    fill("matrix", "cursor", {  // its row, its column, itself
      left: [0, column, column], right: [S, column + 1, column + 1],
      bottom: [row + 1, L, row + 1], top: [row, 0, row], width: [1, 1, 3],
    });
    say(weights.cell(chosen, row, column));
  }

  function pointAtCell(event) {
    const {x, y} = place("matrix", event);
    if (x < 0 || x >= S || y < 0 || y >= L) return hideTip();
    moveCursor(Math.floor(y), Math.floor(x));
    showTip(event, weights.cell(chosen, cursor.row, cursor.column));
  }

  function showTip(event, text) {
    const tip = byId("tip"), below = event.clientY + 18;
    tip.textContent = text;
    tip.hidden = false;
    tip.style.left = `${clamp(event.clientX + 14, 4, innerWidth - tip.offsetWidth - 4)}px`;
    tip.style.top = `${below + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 12 : below}px`;
  }
  function hideTip() { byId("tip").hidden = true; }

  // --- lines -----------------------------------------------------------------------------------

  // Where the head view has its columns, in pixels: labels of queries, lines, labels of keys, bars.
  let at = {};

  function layLines(width) {
    const pitch = Math.max(L, S) > 64 ? 15 : 20, pixels = pitch > 16 ? 13 : 11, most = Math.min(width * 0.27, 130);
    const left = Math.min(widest(queries, pixels), most), right = Math.min(widest(keys, pixels), most);
    const bars = width - clamp(width * 0.2, 40, 110), height = (Math.max(L, S) + 1) * pitch;
    at = {pitch, pixels, left, from: left + 12, to: bars - right - 16, right, bars, end: width};
    plots.lines.model.x_range.setv({start: 0, end: width});
    plots.lines.model.y_range.setv({start: height, end: 0});
    resize("lines", width, height);
  }
  const middle = index => (index + 1.5) * at.pitch;  // below the headings

  function drawLines() {
    const token = pinned ?? pointed, links = linksOf(token);
    const column = value => links.map(value);
    fill("lines", "links", {
      x0: column(() => at.from), y0: column(link => middle(link.row)),
      x1: column(() => at.to), y1: column(link => middle(link.column)), alpha: column(link => link.part),
    });
    drawLabels(token, links);
    const sums = weights.received(chosen), most = largest(sums);
    fill("lines", "received", {
      y: keys.map((_, index) => middle(index)), height: keys.map(() => at.pitch * 0.6), left: keys.map(() => at.bars),
      right: keys.map((_, index) => at.bars + (sums[index] || 0) / most * (at.end - at.bars)),
    });
  }

  // The lines of a token, or all, the strongest last: the largest weight is drawn in full, and what is below a
  // hundredth of it would not be seen.
  function linksOf(token) {
    const matrix = weights.matrix(chosen), links = [];
    const range = (side, count) => token?.side === side ? [token.index] : Array(count).keys();
    for (const row of range("query", L))
      for (const column of range("key", S)) links.push({row, column, part: matrix[row * S + column]});
    const most = largest(links.map(link => link.part));
    for (const link of links) link.part /= most;
    return links.filter(link => link.part >= 0.01).sort((a, b) => a.part - b.part);
  }

  function drawLabels(token, links) {
    const marks = token === null ? [] : links.map(({row, column, part}) => token.side === "query"
      ? {side: "key", index: column, alpha: part * 0.6} : {side: "query", index: row, alpha: part * 0.6});
    if (token !== null) marks.push({...token, alpha: 0.25});
    fill("lines", "marks", {
      x: marks.map(mark => mark.side === "query" ? at.left / 2 + 6 : at.to + 8 + at.right / 2),
      y: marks.map(mark => middle(mark.index)), height: marks.map(() => at.pitch - 1),
      width: marks.map(mark => (mark.side === "query" ? at.left : at.right) + 8), alpha: marks.map(mark => mark.alpha),
    });
    const label = (side, index, text, width) => ({
      x: side === "query" ? at.left + 6 : at.to + 8, y: middle(index), text: cut(text, at.pixels, width),
      align: side === "query" ? "right" : "left", style: same(token, {side, index}) ? "bold" : "normal",
    });
    const labels = [
      ...queries.map((text, index) => label("query", index, text, at.left)),
      ...keys.map((text, index) => label("key", index, text, at.right)),
      {x: at.from, y: middle(-1), text: "attends to", align: "left", style: "italic"},
      {x: at.bars, y: middle(-1), text: "received", align: "left", style: "italic"},
    ];
    const names = ["x", "y", "text", "align", "style"];
    fill("lines", "tokens", Object.fromEntries(names.map(name => [name, labels.map(one => one[name])])));
    plots.lines.named("tokens").glyph.text_font_size = {value: `${at.pixels}px`};
  }

  function tokenAt(event) {
    const {x, y} = place("lines", event), side = x < (at.from + at.to) / 2 ? "query" : "key";
    const index = Math.floor(y / at.pitch) - 1;
    return index >= 0 && index < (side === "query" ? L : S) ? {side, index} : null;
  }

  function pointAt(token) {
    if (same(token, pointed)) return;
    pointed = token;
    drawLines();
    if (token && !pinned) say(weights.token(chosen, token));
  }

  function pin(token) {
    pinned = same(token, pinned) ? null : token;
    drawLines();
    say(pinned ? `Pinned: ${weights.token(chosen, pinned)}` : "Nothing is pinned");
  }

  // --- overview --------------------------------------------------------------------------------

  function layOverview(room) {
    const width = clamp(Math.floor((room - 60) / maps), 12, 76);
    resize("overview", width * maps, clamp(width * L / S, width / 2, width * 1.5) * layers);
  }

  function drawOverview() {
    const NDArray = plots.overview.named("maps").data_source.data.image[0].constructor;
    const image = [], x = [], y = [];
    for (let layer = 0; layer < layers; layer++) {
      for (let map = 0; map < maps; map++) {
        const matrix = weights.matrix({layer, map}), most = largest(matrix);
        image.push(new NDArray(Float32Array.from(matrix, weight => weight / most), [L, S]));
        x.push(map + 0.04);
        y.push(layer + 0.04);
      }
    }
    fill("overview", "maps", {image, x, y});
  }

  // --- choosing --------------------------------------------------------------------------------

  function choose(layer, map) {
    Object.assign(chosen, {layer: clamp(layer, 0, layers - 1), map: clamp(map, 0, maps - 1)});
    byId("layer").value = chosen.layer;
    byId("head").value = chosen.map;
    const which = plots.overview ? `Layer ${chosen.layer}, ${weights.name(chosen.map)}: ` : "";
    say(`${which}${L} tokens attend to ${S}`);
    drawMatrix();
    drawLines();
    if (plots.overview) fill("overview", "chosen", {x: [chosen.map + 0.5], y: [chosen.layer + 0.5]});
    if (pinned) say(`Pinned: ${weights.token(chosen, pinned)}`);
    writeWords();
  }

  function writeWords() {
    const list = byId("words").querySelector("ol");
    list.replaceChildren();
    if (!byId("words").open) return;
    for (let index = 0; index < L; index++) {
      const line = document.createElement("li");
      line.textContent = weights.token(chosen, {side: "query", index});
      list.append(line);
    }
  }

  function offer(id, count, name) {
    for (let index = 0; index < count; index++) byId(id).add(new Option(name(index), index));
    byId(id).closest("label").hidden = count < 2;
    byId(id).addEventListener("change", () => choose(Number(byId("layer").value), Number(byId("head").value)));
  }

  // --- theme -----------------------------------------------------------------------------------

  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  let theme = null;  // null: the system's

  function paint() {
    const shown = theme ?? (prefersDark.matches ? "dark" : "light"), palette = data.palettes[shown];
    document.documentElement.dataset.theme = shown;
    byId("theme").textContent = shown === "dark" ? "Light" : "Dark";
    const style = getComputedStyle(document.documentElement);
    const [ink, muted, edge, accent, line] = ["--ink", "--muted", "--edge", "--accent", "--line"].map(
      name => style.getPropertyValue(name).trim());
    for (const {model} of Object.values(plots)) {
      for (const axis of [...model.above, ...model.left])
        axis.setv({major_label_text_color: ink, axis_label_text_color: muted});
    }
    const {named} = plots.matrix, glyphs = plots.lines.named;
    named("cells colours").palette = palette;
    named("scale").setv({
      background_fill_color: null, major_label_text_color: ink, major_tick_line_color: ink, title_text_color: muted,
    });
    named("missing").glyph.hatch_color = {value: edge};
    named("cursor").glyph.line_color = {value: accent};
    glyphs("links").glyph.line_color = {value: line};
    glyphs("marks").glyph.fill_color = {value: line};
    glyphs("received").glyph.fill_color = {value: accent};
    glyphs("tokens").glyph.text_color = {value: ink};
    if (plots.overview) {
      plots.overview.named("maps colours").palette = palette;
      plots.overview.named("chosen").glyph.line_color = {value: accent};
    }
  }

  // --- mouse and keyboard ----------------------------------------------------------------------

  const arrows = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};

  function listen(id, listeners, onKey) {
    for (const [name, listener] of Object.entries(listeners)) byId(id).addEventListener(name, listener);
    byId(id).addEventListener("keydown", event => {
      if (event.ctrlKey || event.altKey || event.metaKey || onKey(event.key, arrows[event.key]) === false) return;
      event.preventDefault();
    });
  }

  const onFocus = () => { if (byId("matrix").matches(":focus-visible")) moveCursor(cursor.row, cursor.column); };
  const overCell = {pointermove: pointAtCell, click: pointAtCell, pointerleave: hideTip, focus: onFocus};
  listen("matrix", overCell, (key, arrow) => {
    if (arrow) moveCursor(cursor.row + arrow[0], cursor.column + arrow[1]);
    else if (key === "Home") moveCursor(cursor.row, 0);
    else if (key === "End") moveCursor(cursor.row, S - 1);
    else return false;
    hideTip();
    reveal("matrix", cursor.column + 0.5, cursor.row + 0.5);
  });

  const overToken = {
    pointermove: event => pointAt(tokenAt(event)), pointerleave: () => pointAt(null),
    click: event => { if (tokenAt(event)) pin(tokenAt(event)); },
  };
  listen("lines", overToken, (key, arrow) => {
    if (arrow) {
      const side = arrow[1] < 0 ? "query" : arrow[1] > 0 ? "key" : pointed?.side ?? "query";
      const index = pointed ? pointed.index + arrow[0] : 0;
      pointAt({side, index: clamp(index, 0, (side === "query" ? L : S) - 1)});
      reveal("lines", at.from, middle(pointed.index));
    } else if (key === "Enter" || key === " ") pin(pointed ?? {side: "query", index: 0});
    else if (key === "Escape") {
      pointed = null;
      pin(null);
    } else return false;
  });

  if (plots.overview) {
    listen("overview", {click: event => {
      const {x, y} = place("overview", event);
      if (x >= 0 && x < maps && y >= 0 && y < layers) choose(Math.floor(y), Math.floor(x));
    }}, (key, arrow) => arrow ? choose(chosen.layer + arrow[0], chosen.map + arrow[1]) : false);
  } else byId("overview-part").hidden = true;

  byId("words").addEventListener("toggle", writeWords);
  byId("theme").addEventListener("click", () => {
    theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    paint();
  });
  prefersDark.addEventListener("change", paint);
  offer("layer", layers, index => index);
  offer("head", maps, index => index === heads ? "mean" : index);

  // --- start -----------------------------------------------------------------------------------

  const main = document.querySelector("main");
  let room = 0;
  function lay() {
    const style = getComputedStyle(main);
    const now = main.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    if (now === room) return;
    room = now;
    // The other figures stand beside the matrix, or else below it, one beside the other where they can.
    const left = room - layMatrix(room, room >= 900 ? room * 0.58 : room) - 56;
    const beside = left >= 380 ? left : room, width = Math.min(beside, 560);
    layLines(width);
    if (plots.overview) layOverview(beside - width > 500 ? beside - width - 56 : beside);
    drawLines();
  }

  main.hidden = false;
  paint();
  if (plots.overview) drawOverview();
  lay();
  choose(chosen.layer, chosen.map);
  new ResizeObserver(lay).observe(main);
  document.documentElement.dataset.ready = "true";
})().catch(error => {
  document.getElementById("reading").textContent = `This page could not be drawn; a newer browser may help. ${error}`;
  throw error;
});
