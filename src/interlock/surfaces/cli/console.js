/* `console` for capsules in JavaScript. QuickJS has none, so its lines go to the log. A program must not fail when its call has
   used up the log's limit. Put before the source like `text_encoding.js`. */
import { write as writeToLog } from "interlock:capsule/log@0.1.0";
globalThis.console ??= Object.fromEntries(["debug", "error", "info", "log", "warn"].map((name) => [name, (...values) => {
  const shown = (value) => {
    if (typeof value === "string") { return value; }
    if (value instanceof Error) { return `${value}\n${value.stack}`; }
    try { return JSON.stringify(value) ?? String(value); } catch { return String(value); }
  };
  try { writeToLog(1, values.map(shown).join(" ")); } catch { return; }
}]));
