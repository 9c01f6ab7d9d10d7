// Drives a browser over its pipe: opens a page, does a list of things, and prints what it saw as JSON.
// node browser.mjs BROWSER PAGE PICTURE '[["click", "SELECTOR"], ["text", "SELECTOR"], ...]'
import { spawn } from "node:child_process";
import { writeFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [, , browser, page, picture, list] = process.argv;
const home = mkdtempSync(join(tmpdir(), "vk-browser-"));
const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe", "--window-size=1280,1000", `--user-data-dir=${home}`, "about:blank"];
const child = spawn(browser, flags, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"], env: { ...process.env, HOME: home } });
const [out, from] = [child.stdio[3], child.stdio[4]];
const waiting = new Map();
const problems = [];
let loaded;
const load = new Promise((done) => (loaded = done));
let number = 0;
let rest = "";
from.on("data", (bytes) => {
  const parts = (rest + bytes).split("\0");
  rest = parts.pop();
  for (const message of parts.map((part) => JSON.parse(part))) {
    if (message.id) waiting.get(message.id)?.(message);
    else if (message.method === "Page.loadEventFired") loaded();
    else if (message.method === "Runtime.exceptionThrown") problems.push(message.params.exceptionDetails.exception?.description ?? "thrown");
    else if (message.method === "Log.entryAdded") problems.push(message.params.entry.text);
    else if (message.method === "Network.requestWillBeSent" && !/^(file|about):/.test(message.params.request.url)) problems.push(`loads ${message.params.request.url}`);
  }
});
const call = (method, params = {}, sessionId) =>
  new Promise((done, failed) => {
    number += 1;
    waiting.set(number, (answer) => (answer.error ? failed(new Error(`${method}: ${answer.error.message}`)) : done(answer.result)));
    out.write(JSON.stringify({ id: number, method, params, sessionId }) + "\0");
  });
try {
  const { targetId } = await call("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await call("Target.attachToTarget", { targetId, flatten: true });
  const ask = (method, params) => call(method, params, sessionId);
  for (const domain of ["Page", "Runtime", "Log", "Network"]) await ask(`${domain}.enable`);
  const evaluate = async (expression) => (await ask("Runtime.evaluate", { expression, returnByValue: true })).result.value;
  await ask("Page.navigate", { url: `file://${page}` });
  await load;
  // From the start of the navigation to the end of the first rendering of what can be used.
  const ready = await evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd");
  const answers = [];
  for (const [what, selector, words] of JSON.parse(list)) {
    const at = `document.querySelector(${JSON.stringify(selector)})`;
    if (what === "text") answers.push(await evaluate(`${at}?.textContent ?? null`));
    else if (what === "count") answers.push(await evaluate(`document.querySelectorAll(${JSON.stringify(selector)}).length`));
    else if (what === "click") answers.push(await evaluate(`(${at}.click(), true)`));
    else if (what === "focused") answers.push(await evaluate(`document.activeElement === ${at}`));
    else if (what === "key") {
      await evaluate("document.activeElement.blur()");
      await ask("Input.dispatchKeyEvent", { type: "keyDown", key: selector, text: selector });
      await ask("Input.dispatchKeyEvent", { type: "keyUp", key: selector });
      answers.push(true);
    } else if (what === "type") {
      await evaluate(`${at}.focus()`);
      await ask("Input.insertText", { text: words });
      answers.push(true);
    }
  }
  const { data } = await ask("Page.captureScreenshot", { format: "png", captureBeyondViewport: true });
  writeFileSync(picture, Buffer.from(data, "base64"));
  console.log(JSON.stringify({ ready, answers, problems }));
} finally {
  child.kill("SIGKILL");
  await new Promise((done) => child.once("exit", done));
  rmSync(home, { recursive: true, force: true, maxRetries: 5 });
}
