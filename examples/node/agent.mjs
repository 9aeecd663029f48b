// An agent for the exec protocol in Node, without any package: one process, one task.
// It calls no LLM: it waits where a real agent waits for one. Input: {"city": "Oslo"}.

import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

const LLM_CALL_MS = 200;

const { task } = JSON.parse(readFileSync(0, "utf8"));
const city = task.input?.city;

if (typeof city !== "string") {
  say({ longshore: "error", message: "the input should be {\"city\": \"Oslo\"}", code: "bad_input", retry: false });
  // Not process.exit(): it may drop what a pipe has not taken yet.
  process.exitCode = 1;
} else {
  await report(city);
}

async function report(city) {
  say({ level: "info", message: "starts", task: task.id, attempt: task.attempt });
  for (const step of ["look at the map", "look at the sky"]) {
    await sleep(LLM_CALL_MS);
    say({ longshore: "progress", data: { step } });
  }
  say({ longshore: "result", data: { city, weather: "rain", letters: [...city].length } });
}

function say(line) {
  process.stdout.write(JSON.stringify(line) + "\n");
}
