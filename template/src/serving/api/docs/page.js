// Shows the API's OpenAPI document with Swagger UI. Where the server needs a key, the page asks for
// it, keeps it for this tab alone, and sends it to this server alone.
"use strict";

const header = document.documentElement.dataset.keyHeader;
const STORED = `api-key ${location.pathname}`;
const ask = document.getElementById("ask");
const problem = document.getElementById("problem");

// "Authorize" and "Logout" of Swagger UI change the key that is kept, too.
const keepKey = () => ({
  statePlugins: {
    auth: {
      wrapActions: {
        authorize: (authorize) => (given) => {
          if (given.key) sessionStorage.setItem(STORED, given.key.value);
          return authorize(given);
        },
        logout: (logout) => (names) => {
          sessionStorage.removeItem(STORED);
          return logout(names);
        },
      },
    },
  },
});

function tell(text) {
  problem.textContent = text;
  problem.hidden = false;
}

function show(spec, key) {
  if (key) sessionStorage.setItem(STORED, key);
  ask.hidden = problem.hidden = true;
  document.title = spec.info.title;
  // A proxy may serve the API below a path of its own. Swagger UI would send requests to the origin,
  // where another application would receive the key.
  const prefix = new URL(".", location).pathname.slice(0, -1);
  if (prefix) spec.servers ??= [{ url: location.origin + prefix }];
  const ui = SwaggerUIBundle({
    spec,
    dom_id: "#swagger-ui",
    deepLinking: true,
    plugins: [keepKey],
    validatorUrl: null, // it would send the document to another server
    onComplete: () => key && ui.preauthorizeApiKey("key", key),
  });
}

async function load(key) {
  const headers = key ? { [header]: key } : {};
  try {
    const answer = await fetch("openapi.json", { headers });
    if (answer.ok) {
      show(await answer.json(), key);
    } else if (answer.status === 401) {
      sessionStorage.removeItem(STORED);
      ask.hidden = false;
      tell("The server does not accept this key.");
    } else {
      tell(`The server answered ${answer.status} instead of its OpenAPI document. Reload the page.`);
    }
  } catch (error) {
    tell(`The OpenAPI document cannot be read: ${error.message}`);
  }
}

ask.addEventListener("submit", (event) => {
  event.preventDefault();
  load(document.getElementById("key").value);
});

const kept = sessionStorage.getItem(STORED);
if (header && !kept) {
  ask.hidden = false;
} else {
  load(header ? kept : null);
}
