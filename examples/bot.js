// The same bot in JavaScript, with three of its faults: node bot.js PORT
"use strict";
const http = require("http");

const name = process.env.PADDOCK_AGENT || "bot";
let fault = "none";

const server = http.createServer((request, response) => {
  if (request.method === "POST" && request.url.startsWith("/fault/")) {
    fault = request.url.slice("/fault/".length);
    response.end(JSON.stringify({ fault }), () => {
      if (fault === "die") process.exit(3);
      if (fault === "hang") for (;;); // its event loop never turns again
    });
    return;
  }
  const answer = fault === "garbage" ? "It works!" : JSON.stringify({ status: "ok", bot: name });
  response.end(answer);
});
server.listen(Number(process.argv[2]), "127.0.0.1", () => console.log(`${name} listens on ${process.argv[2]}`));
process.on("SIGTERM", () => process.exit(0));
