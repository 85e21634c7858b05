// Compares the encoder and decoder given as an argument with Node's own, over random text and bytes. Ends with an error if they differ.
const [Encoder, Decoder] = [TextEncoder, TextDecoder];
globalThis.TextEncoder = globalThis.TextDecoder = undefined;
(0, eval)(process.argv[2]);
if (globalThis.TextEncoder === Encoder || globalThis.TextDecoder === Decoder) throw new Error("not replaced");

let seed = 7;
const random = (n) => (seed = (seed * 1103515245 + 12345) % 2147483648) % n;
const edges = [0x41, 0x80, 0xbf, 0xc2, 0xe0, 0xa0, 0xed, 0x9f, 0xf0, 0x90, 0xf4, 0x8f, 0xef, 0xbb, 0xbf, 0xff];
const units = [0x41, 0xe9, 0x20ac, 0xd83d, 0xde00, 0xfeff];
const outcome = (run) => { try { return run(); } catch (error) { return error.constructor.name; } };
const same = (a, b, about) => { if (a !== b) throw new Error(JSON.stringify([a, b, about])); };

for (let n = 0; n < 5000; n++) {
  const bytes = Uint8Array.from({ length: random(9) }, () => random(3) ? edges[random(edges.length)] : random(256));
  for (const options of [{}, { fatal: true }, { ignoreBOM: true }]) {
    const [theirs, ours] = [new Decoder("utf-8", options), new TextDecoder("utf-8", options)];
    const cut = random(bytes.length + 1);
    for (const [part, stream] of [[bytes, false], [bytes.subarray(0, cut), true], [bytes.subarray(cut), false]]) {
      const [a, b] = [theirs, ours].map((one) => outcome(() => one.decode(part, { stream })));
      same(a, b, { bytes: [...bytes], options, cut, stream });
      if (a === "TypeError") break;
    }
  }
  const text = String.fromCharCode(...Array.from({ length: random(6) }, () => units[random(units.length)]));
  same(`${new Encoder().encode(text)}`, `${new TextEncoder().encode(text)}`, text);
  const size = random(9), [into, other] = [new Uint8Array(size), new Uint8Array(size)];
  same(JSON.stringify(new Encoder().encodeInto(text, into)), JSON.stringify(new TextEncoder().encodeInto(text, other)), text);
  same(`${into}`, `${other}`, text);
}
same(outcome(() => new TextDecoder("latin1")), "RangeError", "");
console.log("the same");
