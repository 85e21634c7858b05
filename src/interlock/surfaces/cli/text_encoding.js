/* TextEncoder and TextDecoder for capsules in JavaScript, which QuickJS lacks. UTF-8 only, according to https://encoding.spec.whatwg.org.
   The build puts this before the source on the same line, so that line numbers stay the same. So it may only have comments like
   this one, and needs a semicolon after each statement. */
globalThis.TextEncoder ??= class TextEncoder {
  get encoding() { return "utf-8"; }
  encode(text = "") {
    text = String(text);
    const bytes = new Uint8Array(text.length * 3);
    return bytes.slice(0, this.encodeInto(text, bytes).written);
  }
  encodeInto(text, bytes) {
    let read = 0, written = 0;
    for (const character of String(text)) {
      let point = character.codePointAt(0);
      if (point >= 0xd800 && point <= 0xdfff) { point = 0xfffd; }
      const more = point < 0x80 ? 0 : point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
      if (written + more >= bytes.length) { break; }
      bytes[written++] = more ? [0, 0xc0, 0xe0, 0xf0][more] | point >> 6 * more : point;
      for (let left = more - 1; left >= 0; left--) { bytes[written++] = 0x80 | point >> 6 * left & 0x3f; }
      read += character.length;
    }
    return { read, written };
  }
};
globalThis.TextDecoder ??= class TextDecoder {
  #fatal; #ignoreBOM; #begun = false; #left = 0; #point = 0; #lower = 0x80; #upper = 0xbf;
  constructor(label = "utf-8", { fatal = false, ignoreBOM = false } = {}) {
    if (!["utf-8", "utf8", "unicode-1-1-utf-8"].includes(String(label).trim().toLowerCase())) {
      throw new RangeError(`TextDecoder knows UTF-8 only, not ${label}`);
    }
    this.#fatal = Boolean(fatal);
    this.#ignoreBOM = Boolean(ignoreBOM);
  }
  get encoding() { return "utf-8"; }
  get fatal() { return this.#fatal; }
  get ignoreBOM() { return this.#ignoreBOM; }
  decode(input = new Uint8Array(), { stream = false } = {}) {
    const bytes = ArrayBuffer.isView(input)
      ? new Uint8Array(input.buffer, input.byteOffset, input.byteLength) : new Uint8Array(input);
    const parts = [];
    for (let at = 0; at < bytes.length;) {
      if (!this.#left) { this.#first(bytes[at++], parts); continue; }
      if (bytes[at] < this.#lower || bytes[at] > this.#upper) { this.#wrong(parts); continue; }
      this.#lower = 0x80;
      this.#upper = 0xbf;
      this.#point = this.#point << 6 | bytes[at++] & 0x3f;
      if (!--this.#left) { this.#give(this.#point, parts); }
    }
    if (!stream) {
      if (this.#left) { this.#wrong(parts); }
      this.#begun = false;
    }
    return parts.join("");
  }
  #first(byte, parts) {
    if (byte < 0x80) { this.#give(byte, parts); return; }
    if (byte < 0xc2 || byte > 0xf4) { this.#wrong(parts); return; }
    this.#left = byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
    this.#point = byte & 0x3f >> this.#left;
    if (byte === 0xe0) { this.#lower = 0xa0; }
    if (byte === 0xed) { this.#upper = 0x9f; }
    if (byte === 0xf0) { this.#lower = 0x90; }
    if (byte === 0xf4) { this.#upper = 0x8f; }
  }
  #wrong(parts) {
    this.#left = 0;
    this.#lower = 0x80;
    this.#upper = 0xbf;
    if (this.#fatal) {
      this.#begun = false;
      throw new TypeError("the bytes are not UTF-8");
    }
    this.#give(0xfffd, parts);
  }
  #give(point, parts) {
    const mark = point === 0xfeff && !this.#begun && !this.#ignoreBOM;
    this.#begun = true;
    if (!mark) { parts.push(String.fromCodePoint(point)); }
  }
};
