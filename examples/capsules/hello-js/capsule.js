import { write } from "interlock:capsule/log@0.1.0";

// There is one tool, so its name is not looked at.
export function callTool(name, args) {
  write(1, "somebody is greeted");
  return JSON.stringify({ hello: JSON.parse(args) });
}
