// Makes a container in Azurite: `node make_container.mjs ENDPOINT CONTAINER`. The account and its key are the ones that
// every Azurite has.
import { createHmac } from "node:crypto";

const [endpoint, container] = process.argv.slice(2);
const account = "devstoreaccount1";
const key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const headers = { "x-ms-date": new Date().toUTCString(), "x-ms-version": "2021-08-06" };
const canonical = Object.entries(headers).map(([name, value]) => `${name}:${value}\n`).join("");
const resource = `/${account}/${account}/${container}\nrestype:container`;
const signed = createHmac("sha256", Buffer.from(key, "base64"))
  .update(`PUT\n\n\n\n\n\n\n\n\n\n\n\n${canonical}${resource}`, "utf8")
  .digest("base64");
const answer = await fetch(`${endpoint}/${container}?restype=container`, {
  method: "PUT",
  headers: { ...headers, authorization: `SharedKey ${account}:${signed}` },
});
if (!answer.ok) {
  console.error(answer.status, await answer.text());
  process.exit(1);
}
