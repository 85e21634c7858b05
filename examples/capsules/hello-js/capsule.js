import { write } from "interlock:capsule/log@0.1.0";

// There is only one tool, so its name is ignored.
export function callTool(name, args) {
  write(1, "somebody is greeted");
  return JSON.stringify({ hello: JSON.parse(args) });
}
