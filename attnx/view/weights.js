// The numbers of a page: unpacked, and told in words.
"use strict";

// What was compressed by zlib and written in base64.
async function inflate(text) {
  const packed = Uint8Array.from(atob(text), character => character.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate")));
}

// Weights, NaN where one is missing, from whole numbers of 1 / steps in planes of bytes (the lowest first).
async function unpack(text, steps, missing) {
  const bytes = new Uint8Array(await (await inflate(text)).arrayBuffer()), count = bytes.length / 4;
  return Float64Array.from({length: count}, (_, i) => {
    const whole = bytes[i] + 2 ** 8 * bytes[i + count] + 2 ** 16 * bytes[i + 2 * count] + 2 ** 24 * bytes[i + 3 * count];
    return whole === missing ? NaN : whole / steps;
  });
}

const largest = values => values.reduce((most, value) => value > most ? value : most, 0) || 1;

// A token is {side: "query" or "key", index}.
class Weights {
  static async read(data) {
    const self = new Weights();
    Object.assign(self, {queries: data.queries, keys: data.keys, layers: data.layers, heads: data.heads});
    self.maps = data.heads > 1 ? data.heads + 1 : 1;  // of a layer; the last is the mean of the heads
    self.digits = Math.round(Math.log10(data.steps));
    self.weights = await unpack(data.weights, data.steps, data.missing);
    self.sums = await unpack(data.received, data.steps, data.missing);
    return self;
  }

  name(map) { return map === this.heads ? "mean of the heads" : `head ${map}`; }
  show(weight) { return isNaN(weight) ? "missing" : weight.toFixed(this.digits); }
  label({side, index}) { return (side === "query" ? this.queries : this.keys)[index]; }
  part(values, size, layer, map) { return values.subarray((layer * this.maps + map) * size).subarray(0, size); }

  // Row after row, and what each key receives from all queries.
  matrix({layer, map}) { return this.part(this.weights, this.queries.length * this.keys.length, layer, map); }
  received({layer, map}) { return this.part(this.sums, this.keys.length, layer, map); }

  cell(chosen, row, column) {
    const weight = this.matrix(chosen)[row * this.keys.length + column];
    return `${this.queries[row]} attends to ${this.keys[column]}: ${this.show(weight)}`;
  }

  // The tokens that a token exchanges most with.
  most(chosen, {side, index}, count = 5) {
    const matrix = this.matrix(chosen), keys = this.keys.length;
    const line = side === "query"
      ? this.keys.map((label, column) => [label, matrix[index * keys + column]])
      : this.queries.map((label, row) => [label, matrix[row * keys + index]]);
    const sorted = line.filter(([, weight]) => weight > 0).sort((a, b) => b[1] - a[1]);
    return sorted.slice(0, count).map(([label, weight]) => `${label} ${this.show(weight)}`).join(", ") || "nothing";
  }

  token(chosen, token) {
    const label = this.label(token), most = this.most(chosen, token);
    if (token.side === "query") return `${label} attends to ${most}`;
    return `${label} receives ${this.show(this.received(chosen)[token.index])} in all, from ${most}`;
  }
}
