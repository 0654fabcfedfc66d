// The page of attnx.view.to_html: reads the weights, fills Bokeh's figures, listens to mouse and keyboard.
"use strict";

(async () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const {queries, keys, layers, heads, steps} = data;
  const maps = heads > 1 ? heads + 1 : 1;  // of a layer; the last is the mean of the heads
  const L = queries.length, S = keys.length;
  const weights = await unpack(data.weights), received = await unpack(data.received);
  const byId = id => document.getElementById(id);

  // What is shown: the layer and map, the cell that the cursor is on, the token that is pointed at or pinned.
  const state = {layer: data.layer, map: data.head, row: 0, column: 0, cursor: false, token: null, pinned: null};

  // --- weights ---------------------------------------------------------------------------------

  async function inflate(text) {
    const packed = Uint8Array.from(atob(text), character => character.charCodeAt(0));
    return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate")));
  }

  // Whole numbers of 1 / steps, as planes of bytes (the lowest first), which zlib packs well.
  async function unpack(text) {
    const bytes = new Uint8Array(await (await inflate(text)).arrayBuffer()), count = bytes.length / 4;
    return Float64Array.from({length: count}, (_, i) => {
      const whole = bytes[i] + 256 * bytes[i + count] + 65536 * bytes[i + 2 * count] + 16777216 * bytes[i + 3 * count];
      return whole === data.missing ? NaN : whole / steps;
    });
  }

  const digits = Math.round(Math.log10(steps));
  const show = weight => isNaN(weight) ? "missing" : weight.toFixed(digits);
  const part = (values, size, layer, map) => values.subarray((layer * maps + map) * size, (layer * maps + map + 1) * size);
  const matrix = (layer = state.layer, map = state.map) => part(weights, L * S, layer, map);
  const largest = values => values.reduce((most, value) => value > most ? value : most, 0) || 1;
  const nameOf = map => map === heads ? "mean of the heads" : `head ${map}`;

  // The other side's tokens with their weights, the largest first.
  function attended(token) {
    const shown = matrix();
    const line = token.side === "query"
      ? keys.map((label, j) => [label, shown[token.index * S + j]])
      : queries.map((label, i) => [label, shown[i * S + token.index]]);
    return line.filter(pair => pair[1] > 0).sort((a, b) => b[1] - a[1]);
  }

  const listed = (token, count) => attended(token).slice(0, count)
    .map(([label, weight]) => `${label} ${show(weight)}`).join(", ") || "nothing";

  // --- figures ---------------------------------------------------------------------------------

  const library = document.createElement("script");
  library.textContent = await (await inflate(data.library)).text();
  document.head.append(library);

  const plots = {};
  for (const [name, item] of Object.entries(data.figures)) {
    const [view] = (await Bokeh.embed.embed_item(item, name)).roots;
    plots[name] = {view, model: view.model, part: key => view.model.document.get_model_by_name(key)};
  }

  const clamp = (value, least, most) => Math.max(least, Math.min(most, value));
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const fill = (plot, name, columns) => { plots[plot].part(name).data_source.data = columns; };

  // A pointer's place in a figure's own units.
  function place(plot, event) {
    const {el, frame} = plots[plot].view, box = el.getBoundingClientRect();
    return {x: frame.x_scale.invert(event.clientX - box.left), y: frame.y_scale.invert(event.clientY - box.top)};
  }

  function resize(plot, width, height) {
    plots[plot].model.setv({frame_width: Math.round(width), frame_height: Math.round(height)});
  }

  const pen = document.createElement("canvas").getContext("2d");
  function widthOf(text, pixels) {
    pen.font = `${pixels}px ${getComputedStyle(document.body).fontFamily}`;
    return pen.measureText(text).width;
  }
  function cut(text, pixels, width) {
    if (widthOf(text, pixels) <= width) return text;
    let letters = Array.from(text);
    while (letters.length > 1 && widthOf(letters.join("") + "\u2026", pixels) > width) letters.pop();
    return letters.join("") + "\u2026";
  }
  const widest = (labels, pixels, most) => Math.min(most, Math.max(...labels.map(label => widthOf(label, pixels))));

  // Scroll until a point of a figure is seen: below the header, and inside the box that a wide matrix scrolls in.
  function reveal(plot, x, y) {
    const {el, frame} = plots[plot].view, figure = el.getBoundingClientRect(), scroll = byId(plot).parentElement;
    const left = figure.left + frame.x_scale.compute(x), top = figure.top + frame.y_scale.compute(y);
    const box = scroll.getBoundingClientRect(), header = document.querySelector("header").getBoundingClientRect();
    if (left < box.left + 30 || left > box.right - 30) scroll.scrollLeft += left - (box.left + box.right) / 2;
    if (top < header.bottom + 30 || top > innerHeight - 30) scrollBy({top: top - innerHeight / 2, behavior: "instant"});
  }

  // --- matrix ----------------------------------------------------------------------------------

  function layMatrix(room, share) {
    const labels = model => [...model.major_label_overrides.values()].map(label => label.text);
    const {model} = plots.matrix, [above] = model.above, [beside] = model.left;
    const left = widest(labels(beside), 12, 200) + 12;
    let cell = Math.floor((share - left) / S);
    if (cell < 9) cell = Math.floor((room - left) / S);
    cell = clamp(Math.min(cell, Math.max(16, Math.floor((innerHeight - 300) / L))), 9, 44);
    above.major_label_orientation = widest(labels(above), 12, 200) < cell ? "horizontal" : "vertical";
    for (const axis of [above, beside]) axis.major_label_text_font_size = `${clamp(cell - 1, 8, 12)}px`;
    resize("matrix", S * cell, L * cell);
    return S * cell + left;
  }

  function drawMatrix() {
    const shown = matrix(), {part} = plots.matrix, cells = part("cells").data_source;
    cells.data.image[0].set(shown);
    cells.change.emit();
    part("cells colours").high = largest(shown);
    const missing = [...shown.keys()].filter(index => isNaN(shown[index]));
    fill("matrix", "missing", {x: missing.map(i => i % S + 0.5), y: missing.map(i => Math.floor(i / S) + 0.5)});
    drawCursor();
  }

  function drawCursor() {
    const {row, column} = state;
    fill("matrix", "cursor", state.cursor ? {
      left: [0, column, column], right: [S, column + 1, column + 1],
      bottom: [row + 1, L, row + 1], top: [row, 0, row], width: [1, 1, 3],
    } : {left: [], right: [], bottom: [], top: [], width: []});
    if (state.cursor) byId("reading").textContent = reading();
  }

  const reading = () => `${queries[state.row]} attends to ${keys[state.column]}: ${show(matrix()[state.row * S + state.column])}`;

  function moveCursor(row, column) {
    Object.assign(state, {row: clamp(row, 0, L - 1), column: clamp(column, 0, S - 1), cursor: true});
    drawCursor();
  }

  function pointAtCell(event) {
    const {x, y} = place("matrix", event);
    if (x < 0 || x >= S || y < 0 || y >= L) return hideTip();
    moveCursor(Math.floor(y), Math.floor(x));
    showTip(event, reading());
  }

  // --- lines -----------------------------------------------------------------------------------

  let sides = {};  // where the head view has its columns, in pixels

  function layLines(width) {
    const pitch = Math.max(L, S) > 64 ? 15 : 20, pixels = pitch > 16 ? 13 : 11;
    const label = Math.min(width * 0.27, 130), left = widest(queries, pixels, label), right = widest(keys, pixels, label);
    const bar = clamp(width * 0.2, 40, 110);
    sides = {pitch, pixels, left, right, bar, from: left + 8, to: width - bar - right - 16, bars: width - bar};
    const {model} = plots.lines, height = (Math.max(L, S) + 1) * pitch;
    model.x_range.setv({start: 0, end: width});
    model.y_range.setv({start: height, end: 0});
    resize("lines", width, height);
  }

  function drawLines() {
    const shown = matrix(), token = state.pinned ?? state.token;
    const {pitch, pixels, left, right, bar, from, to, bars} = sides, middle = index => (index + 1.5) * pitch;  // below the headings
    const rows = token?.side === "query" ? [token.index] : queries.keys(), columns = token?.side === "key" ? [token.index] : [...keys.keys()];
    let wanted = [];
    for (const i of rows) for (const j of columns) wanted.push([shown[i * S + j], i, j]);
    const most = largest(wanted.map(line => line[0]));
    // The largest weight is drawn in full. What is below a hundredth of it would not be seen.
    wanted = wanted.filter(line => line[0] >= most / 100).map(([weight, i, j]) => [weight / most, i, j]);
    wanted.sort((a, b) => a[0] - b[0]);
    fill("lines", "links", {
      x0: wanted.map(() => from), y0: wanted.map(line => middle(line[1])),
      x1: wanted.map(() => to), y1: wanted.map(line => middle(line[2])), alpha: wanted.map(line => line[0]),
    });
    const end = line => token.side === "query" ? line[2] : line[1];
    const marks = token ? wanted.map(line => ({side: token.side === "query" ? "key" : "query", index: end(line), alpha: line[0] * 0.6})) : [];
    if (token) marks.push({...token, alpha: 0.25});
    const wide = mark => (mark.side === "query" ? left : right) + 8;
    fill("lines", "marks", {
      x: marks.map(mark => mark.side === "query" ? left / 2 + 2 : to + 8 + right / 2), y: marks.map(mark => middle(mark.index)),
      width: marks.map(wide), height: marks.map(() => pitch - 1), alpha: marks.map(mark => mark.alpha),
    });
    const style = (side, index) => token?.side === side && token.index === index ? "bold" : "normal";
    fill("lines", "tokens", {
      x: [...queries.map(() => left + 2), ...keys.map(() => to + 8), from, bars],
      y: [...queries.map((_, i) => middle(i)), ...keys.map((_, j) => middle(j)), middle(-1), middle(-1)],
      text: [...queries.map(label => cut(label, pixels, left)), ...keys.map(label => cut(label, pixels, right)), "attends to", "received"],
      align: [...queries.map(() => "right"), ...keys.map(() => "left"), "left", "left"],
      style: [...queries.map((_, i) => style("query", i)), ...keys.map((_, j) => style("key", j)), "italic", "italic"],
    });
    plots.lines.part("tokens").glyph.text_font_size = {value: `${pixels}px`};
    const got = part(received, S, state.layer, state.map), top = largest(got);
    fill("lines", "received", {
      y: keys.map((_, j) => middle(j)), height: keys.map(() => pitch * 0.6), left: keys.map(() => bars),
      right: keys.map((_, j) => bars + (got[j] || 0) / top * bar),
    });
  }

  const told = token => token.side === "query"
    ? `${queries[token.index]} attends to ${listed(token, 5)}`
    : `${keys[token.index]} receives ${show(part(received, S, state.layer, state.map)[token.index])} in all, from ${listed(token, 5)}`;

  function pointAt(token) {
    if (state.token?.side === token?.side && state.token?.index === token?.index) return;
    state.token = token;
    drawLines();
    if (token && !state.pinned) byId("reading").textContent = told(token);
  }

  function pin(token) {
    const same = state.pinned && token && state.pinned.side === token.side && state.pinned.index === token.index;
    state.pinned = same ? null : token;
    drawLines();
    byId("reading").textContent = state.pinned ? `Pinned: ${told(state.pinned)}` : "Nothing is pinned";
  }

  function tokenAt(event) {
    const {x, y} = place("lines", event), side = x < (sides.from + sides.to) / 2 ? "query" : "key";
    const index = Math.floor(y / sides.pitch) - 1;
    return index >= 0 && index < (side === "query" ? L : S) ? {side, index} : null;
  }

  // --- overview --------------------------------------------------------------------------------

  function layOverview(room) {
    const width = clamp(Math.floor((room - 60) / maps), 12, 76);
    resize("overview", width * maps, clamp(width * L / S, width / 2, width * 1.5) * layers);
  }

  function drawOverview() {
    const NDArray = plots.overview.part("maps").data_source.data.image[0].constructor;
    const all = Array.from({length: layers * maps}, (_, index) => [Math.floor(index / maps), index % maps]);
    const images = all.map(([layer, map]) => {
      const shown = matrix(layer, map), most = largest(shown);
      return new NDArray(Float32Array.from(shown, weight => weight / most), [L, S]);
    });
    fill("overview", "maps", {image: images, x: all.map(one => one[1] + 0.04), y: all.map(one => one[0] + 0.04)});
  }

  // --- choosing --------------------------------------------------------------------------------

  function choose(layer, map) {
    Object.assign(state, {layer: clamp(layer, 0, layers - 1), map: clamp(map, 0, maps - 1)});
    byId("layer").value = state.layer;
    byId("head").value = state.map;
    drawMatrix();
    drawLines();
    if (plots.overview) fill("overview", "chosen", {x: [state.map + 0.5], y: [state.layer + 0.5]});
    if (state.pinned) byId("reading").textContent = `Pinned: ${told(state.pinned)}`;
    else if (!state.cursor) byId("reading").textContent = `Layer ${state.layer}, ${nameOf(state.map)}: ${L} tokens attend to ${S}`;
    words();
  }

  function words() {
    const list = byId("words").querySelector("ol");
    list.replaceChildren();
    if (!byId("words").open) return;
    queries.forEach((label, index) => {
      const line = document.createElement("li");
      line.textContent = `${label} attends to ${listed({side: "query", index}, 5)}`;
      list.append(line);
    });
  }

  function offer(select, count, nameOf, row) {
    for (let index = 0; index < count; index++) select.add(new Option(nameOf(index), index));
    select.closest("label").hidden = count < 2;
    select.addEventListener("change", row);
  }

  // --- theme -----------------------------------------------------------------------------------

  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  let theme = null;  // null: as the system

  function paint() {
    const dark = theme === null ? prefersDark.matches : theme === "dark";
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    byId("theme").textContent = dark ? "Light" : "Dark";
    const ink = colour("--ink"), muted = colour("--muted"), accent = {value: colour("--accent")}, line = {value: colour("--line")};
    for (const {model} of Object.values(plots)) {
      for (const axis of [...model.above, ...model.left])
        axis.setv({major_label_text_color: ink, axis_label_text_color: muted});
    }
    const palette = data.palettes[dark ? "dark" : "light"];
    const {part} = plots.matrix;
    part("cells colours").palette = palette;
    part("scale").setv({major_label_text_color: ink, title_text_color: muted, background_fill_color: null, major_tick_line_color: ink});
    part("missing").glyph.setv({hatch_color: {value: muted}});
    part("cursor").glyph.setv({line_color: accent});
    const lines = plots.lines.part;
    lines("links").glyph.setv({line_color: line});
    lines("marks").glyph.setv({fill_color: line});
    lines("received").glyph.setv({fill_color: accent});
    lines("tokens").glyph.setv({text_color: {value: ink}});
    if (plots.overview) {
      plots.overview.part("maps colours").palette = palette;
      plots.overview.part("chosen").glyph.setv({line_color: accent});
    }
  }

  // --- mouse and keyboard ----------------------------------------------------------------------

  const arrows = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};

  function onKey(id, act) {
    byId(id).addEventListener("keydown", event => {
      if (event.ctrlKey || event.altKey || event.metaKey || act(event.key, arrows[event.key]) === false) return;
      event.preventDefault();
    });
  }

  function showTip(event, text) {
    const tip = byId("tip");
    tip.textContent = text;
    tip.hidden = false;
    tip.style.left = `${clamp(event.clientX + 14, 4, innerWidth - tip.offsetWidth - 4)}px`;
    tip.style.top = `${event.clientY + 18 + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 12 : event.clientY + 18}px`;
  }
  function hideTip() { byId("tip").hidden = true; }

  byId("matrix").addEventListener("pointermove", pointAtCell);
  byId("matrix").addEventListener("click", pointAtCell);
  byId("matrix").addEventListener("pointerleave", hideTip);
  byId("matrix").addEventListener("focus", () => { if (byId("matrix").matches(":focus-visible")) moveCursor(state.row, state.column); });
  onKey("matrix", (key, arrow) => {
    if (arrow) moveCursor(state.row + arrow[0], state.column + arrow[1]);
    else if (key === "Home") moveCursor(state.row, 0);
    else if (key === "End") moveCursor(state.row, S - 1);
    else return false;
    hideTip();
    reveal("matrix", state.column + 0.5, state.row + 0.5);
  });

  byId("lines").addEventListener("pointermove", event => pointAt(tokenAt(event)));
  byId("lines").addEventListener("pointerleave", () => pointAt(null));
  byId("lines").addEventListener("click", event => { const token = tokenAt(event); if (token) pin(token); });
  onKey("lines", (key, arrow) => {
    const token = state.token ?? {side: "query", index: 0};
    if (arrow) {
      const side = arrow[1] < 0 ? "query" : arrow[1] > 0 ? "key" : token.side;
      const index = state.token ? token.index + arrow[0] : token.index;
      pointAt({side, index: clamp(index, 0, (side === "query" ? L : S) - 1)});
      reveal("lines", sides.from, (state.token.index + 1.5) * sides.pitch);
    } else if (key === "Enter" || key === " ") pin(token);
    else if (key === "Escape") { state.token = null; pin(null); }
    else return false;
  });

  if (plots.overview) {
    byId("overview").addEventListener("click", event => {
      const {x, y} = place("overview", event);
      if (x >= 0 && x < maps && y >= 0 && y < layers) choose(Math.floor(y), Math.floor(x));
    });
    onKey("overview", (key, arrow) => arrow ? choose(state.layer + arrow[0], state.map + arrow[1]) : false);
  } else byId("overview-part").hidden = true;

  byId("words").addEventListener("toggle", words);
  byId("theme").addEventListener("click", () => {
    theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    paint();
  });
  prefersDark.addEventListener("change", paint);
  offer(byId("layer"), layers, index => index, () => choose(+byId("layer").value, state.map));
  offer(byId("head"), maps, index => index === heads ? "mean" : index, () => choose(state.layer, +byId("head").value));

  // --- start -----------------------------------------------------------------------------------

  const main = document.querySelector("main");
  let room = 0;
  function lay() {
    const style = getComputedStyle(main), now = main.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    if (now === room) return;
    room = now;
    // The other figures stand beside the matrix, or else below it, the one beside the other where they can.
    const left = room - layMatrix(room, room >= 900 ? room * 0.58 : room) - 56;
    const beside = left >= 380 ? left : room;
    const width = Math.min(beside, 560);
    layLines(width);
    if (plots.overview) layOverview(beside - width > 500 ? beside - width - 56 : beside);
    drawLines();
  }

  main.hidden = false;
  paint();
  if (plots.overview) drawOverview();
  lay();
  choose(state.layer, state.map);
  new ResizeObserver(lay).observe(main);
  document.documentElement.dataset.ready = "true";
})();
