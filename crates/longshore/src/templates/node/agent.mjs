// An agent: one process per task. The task comes as one JSON document on standard input.
// A line that is a JSON object with the key `longshore` is an event; every other line is a log line.

import { readFileSync } from "node:fs";

const { task } = JSON.parse(readFileSync(0, "utf8"));
event("progress", { data: { step: "thinking", attempt: task.attempt } });
event("result", { data: answer(task.input) });

function answer(question) {
  // Call your LLM here.
  const name = typeof question === "string" ? question : JSON.stringify(question);
  return `Hello, ${name}!`;
}

function event(kind, fields) {
  process.stdout.write(JSON.stringify({ longshore: kind, ...fields }) + "\n");
}
