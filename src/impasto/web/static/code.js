// The same request as a program: what a person copies. Pure; kept in step with the form by whoever renders it.

const KEY = "YOUR_KEY";

export const LANGUAGES = [
  ["js", "JavaScript"],
  ["python", "Python"],
  ["python-async", "Python async"],
  ["curl", "curl"],
  ["http", "HTTP"],
];

/** The one line that points the client of a language at `origin`, and the program. */
export function program(language, { id, input, origin }) {
  return {
    js: () => ({ point: pointJs(origin), code: javascript(id, input) }),
    python: () => ({ point: pointExec(origin, "python app.py"), code: python(id, input) }),
    "python-async": () => ({ point: pointExec(origin, "python app.py"), code: pythonAsync(id, input) }),
    curl: () => ({ point: "", code: curl(id, input, origin) }),
    http: () => ({ point: "", code: http(id, input, origin) }),
  }[language]();
}

function pointExec(origin, command) {
  return `impasto exec --url ${origin} -- ${command}`;
}

function pointJs(origin) {
  return `fal.config({ credentials: "${KEY}", proxyUrl: { url: "${origin}/api/fal/proxy", when: "always" } });`;
}

export function javascript(id, input) {
  return `import { fal } from "@fal-ai/client";

const result = await fal.subscribe(${JSON.stringify(id)}, {
  input: ${indent(jsLiteral(input), 2)},
  logs: true,
  onQueueUpdate: (update) => {
    if (update.status === "IN_PROGRESS") {
      update.logs.map((log) => log.message).forEach(console.log);
    }
  },
});
console.log(result.data);
console.log(result.requestId);`;
}

export function python(id, input) {
  return `import fal_client


def on_queue_update(update):
    if isinstance(update, fal_client.InProgress):
        for log in update.logs:
            print(log["message"])


result = fal_client.subscribe(
    ${JSON.stringify(id)},
    arguments=${indent(pythonLiteral(input), 4)},
    with_logs=True,
    on_queue_update=on_queue_update,
)
print(result)`;
}

export function pythonAsync(id, input) {
  return `import asyncio
import fal_client


async def main():
    handler = await fal_client.submit_async(
        ${JSON.stringify(id)},
        arguments=${indent(pythonLiteral(input), 8)},
    )
    async for event in handler.iter_events(with_logs=True):
        print(event)
    print(await handler.get())


asyncio.run(main())`;
}

export function curl(id, input, origin) {
  const body = JSON.stringify(input, null, 2).replaceAll("'", "'\\''");
  return `curl --request POST ${origin}/${id} \\
  --header "Authorization: Key $FAL_KEY" \\
  --header "Content-Type: application/json" \\
  --data '${body}'`;
}

export function http(id, input, origin) {
  const body = JSON.stringify(input, null, 2);
  return `POST /queue/${id} HTTP/1.1
Host: ${origin.replace(/^https?:\/\//, "")}
Authorization: Key ${KEY}
Content-Type: application/json
Content-Length: ${new TextEncoder().encode(body).length}

${body}`;
}

// ---------------------------------------------------------------- literals

function jsLiteral(value) {
  return JSON.stringify(value, null, 2).replace(/^(\s*)"([A-Za-z_]\w*)":/gm, "$1$2:");
}

function pythonLiteral(value, depth = 0) {
  const pad = "    ".repeat(depth);
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) {
    if (!value.length) return "[]";
    return `[\n${value.map((each) => `${pad}    ${pythonLiteral(each, depth + 1)},`).join("\n")}\n${pad}]`;
  }
  if (typeof value === "object") {
    const said = Object.entries(value).filter(([, each]) => each !== undefined); // as JSON leaves them out
    const lines = said.map(([k, v]) => `${pad}    ${JSON.stringify(k)}: ${pythonLiteral(v, depth + 1)},`);
    return lines.length ? `{\n${lines.join("\n")}\n${pad}}` : "{}";
  }
  return JSON.stringify(value);
}

function indent(text, by) {
  return text.replaceAll("\n", `\n${" ".repeat(by)}`);
}
